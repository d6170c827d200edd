#!/usr/bin/env python3
"""Make the generated data set "shapes" (COCO layout) that the quick start trains on.

A set that is there with the same parameters is left alone.
"""

import argparse
import sys
import time
from pathlib import Path

from vitadapter_d2.data.datasets import ShapesSpec, datasets_root, generate


def main() -> int:
    """Parse the arguments and make the set."""
    default = ShapesSpec()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", default=str(Path(datasets_root()) / "shapes"), help="folder")
    parser.add_argument("--train", type=int, default=default.train, help="training images")
    parser.add_argument("--val", type=int, default=default.val, help="held-out images")
    parser.add_argument("--size", type=int, default=default.size, help="side in pixels")
    parser.add_argument(
        "--level",
        default=default.level,
        help="easy: class = outline and fill pattern; hard: class = outline alone",
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--max-things", type=int, default=default.max_things, help="an image has 2 to this many"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8)")
    args = vars(parser.parse_args())
    root, workers = args.pop("root"), args.pop("workers")
    start = time.perf_counter()
    try:
        is_new = generate(root, ShapesSpec(**args), workers=workers, progress=True)
    except ValueError as error:
        parser.error(str(error))
    seconds = time.perf_counter() - start
    print(f"{root}: {f'made in {seconds:.1f} s' if is_new else 'already complete'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
