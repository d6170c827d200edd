#!/usr/bin/env python3
"""Convert ADE20K's label maps to the values Detectron2 expects.

Reads  ADEChallengeData2016/annotations/{training,validation}/, 0 = other, 1 to 150
Writes ADEChallengeData2016/annotations_detectron2/{training,validation}/, 0 to 149, 255 = ignore
"""

import argparse
import sys
from pathlib import Path

from vitadapter_d2.data.datasets import datasets_root
from vitadapter_d2.data.prepare import shift_labels


def main() -> int:
    """Parse the arguments and convert both splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", default=datasets_root(), help="folder that holds ADEChallengeData2016/"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8)")
    args = parser.parse_args()
    root = Path(args.root) / "ADEChallengeData2016"
    for split in ("training", "validation"):
        target = root / "annotations_detectron2" / split
        try:
            count = shift_labels(
                root / "annotations" / split, target, 150, workers=args.workers, title=split
            )
        except (FileNotFoundError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{target}: {count} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
