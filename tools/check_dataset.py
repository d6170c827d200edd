#!/usr/bin/env python
"""Counts, samples and draws a registered data set, and names what is wrong with it.

    python tools/check_dataset.py coco_2017_val
    python tools/check_dataset.py ade20k_panoptic_train --root /data --images all --draw 0

Looks up every file, reads `--images` of them and draws `--draw` of them with their annotations. The
exit status is 1 if anything is wrong. What is legal but good to know is listed as a note.
"""

import argparse
import math
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from vitadapter_d2.data.checking.dataset import Report


def count_or_all(text: str) -> int | None:
    """A number of images; None for "all"."""
    if text == "all":
        return None
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, or all, got {text}")
    return number


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="name of the data set, such as coco_2017_val")
    parser.add_argument("--root", help="folder of all data sets; default: DETECTRON2_DATASETS")
    parser.add_argument("--images", type=count_or_all, default=1000, help="images to read, or all")
    parser.add_argument("--draw", type=int, default=16, help="images to draw")
    parser.add_argument("--output", type=Path, help="folder; default: output/check_dataset/NAME")
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    return parser.parse_args()


def class_table(report: "Report", columns: int = 3) -> str:
    """Class names and counts in columns; a star marks the rarest twentieth."""
    counts = report.class_counts
    limit = sorted(counts.values())[math.ceil(len(counts) / 20) - 1]
    width = min(32, max(map(len, counts)))
    cells = [
        f"{name[:width]:<{width}} {count:>9}{'*' if count <= limit else ' '}"
        for name, count in counts.items()
    ]
    lines = ["  ".join(cells[i : i + columns]).rstrip() for i in range(0, len(cells), columns)]
    return "\n".join([f"{report.counted} per class, * = the rarest:", *lines])


def draw(records: Sequence[dict[str, Any]], name: str, count: int, seed: int, folder: Path) -> None:
    """Writes pictures of the annotations of some records."""
    from detectron2.data import MetadataCatalog
    from detectron2.data.detection_utils import read_image

    from vitadapter_d2.files import write_image
    from vitadapter_d2.inference.drawing import draw_annotation

    chosen = random.Random(seed).sample(list(records), min(count, len(records)))
    written = 0
    for number, record in enumerate(tqdm(chosen, desc="drawing", unit="image")):
        try:
            image = read_image(record["file_name"], format="RGB")
            picture = draw_annotation(image, record, MetadataCatalog.get(name))
        except Exception as error:  # damaged files and wrong classes, which are reported already
            print(f"not drawn: {record['file_name']}: {error}", file=sys.stderr)
            continue
        write_image(folder / f"{number:03d}_{Path(record['file_name']).stem}.png", picture)
        written += 1
    print(f"{written} images drawn in {folder}")


def main(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    from vitadapter_d2.data.checking.dataset import check_dataset

    report = check_dataset(args.name, args.images, args.workers, "reading", args.seed)
    print(f"{args.name}: {report.images} images, {report.annotations} annotations")
    if report.class_counts:
        print(class_table(report))
    print(f"{report.decoded} of {report.images} images read")
    if args.draw > 0 and report.records:
        folder = args.output or Path("output", "check_dataset", args.name)
        draw(report.records, args.name, args.draw, args.seed, folder)
    for finding in report.findings:
        print(("wrong: " if finding.is_error else "note: ") + str(finding))
    print("something is wrong" if report.errors else "nothing is wrong")
    return 1 if report.errors else 0


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.root is not None:  # read when the data sets are registered, by this import
        os.environ["DETECTRON2_DATASETS"] = arguments.root
    from vitadapter_d2.engine.errors import exit_status

    sys.exit(exit_status(lambda: main(arguments)))
