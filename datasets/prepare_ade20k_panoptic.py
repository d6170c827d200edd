#!/usr/bin/env python3
"""Make ADE20K's panoptic and instance annotations out of its label maps.

Reads  ADEChallengeData2016/annotations/{training,validation}/, 0 = other, 1 to 150, and
       ADEChallengeData2016/annotations_instance/{training,validation}/, red = category 1 to 100,
       green = instance
Writes ADEChallengeData2016/ade20k_panoptic_{train,val}/, ade20k_panoptic_{train,val}.json and
       ade20k_instance_{train,val}.json
"""

import argparse
import sys

from vitadapter_d2.data.datasets import datasets_root
from vitadapter_d2.data.prepare_ade20k import prepare_ade20k


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
    for split in ("train", "val"):
        try:
            count = prepare_ade20k(args.root, split, workers=args.workers, title=split)
        except (FileNotFoundError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{split}: {count} images converted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
