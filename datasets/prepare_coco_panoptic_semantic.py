#!/usr/bin/env python3
"""Make COCO's semantic label maps (133 classes) out of its panoptic annotations.

Reads  coco/annotations/panoptic_{train,val}2017.json and coco/panoptic_{train,val}2017/
Writes coco/panoptic_semseg_{train,val}2017/, values 0 to 132, 255 where there is no segment
"""

import argparse
import sys
from pathlib import Path

from vitadapter_d2.data.datasets import datasets_root
from vitadapter_d2.data.datasets.coco import COCO_PANOPTIC_CATEGORIES, coco_panoptic_paths
from vitadapter_d2.data.prepare import panoptic_to_semantic


def main() -> int:
    """Parse the arguments and convert the splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default=datasets_root(), help="folder that holds coco/")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=("val", "train"))
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8)")
    args = parser.parse_args()
    contiguous_id = {c.id: i for i, c in enumerate(COCO_PANOPTIC_CATEGORIES)}
    for split in args.splits:
        paths = coco_panoptic_paths(args.root, split)
        try:
            count = panoptic_to_semantic(
                Path(paths.panoptic_json),
                Path(paths.panoptic),
                Path(paths.semantic),
                contiguous_id,
                workers=args.workers,
                title=f"{split}2017",
            )
        except (FileNotFoundError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{paths.semantic}: {count} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
