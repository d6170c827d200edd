#!/usr/bin/env python
"""Draws what a model sees in images.

    python tools/demo.py --config-file configs/shapes/mask2former_vit_adapter_quickstart.py \
        --weights output/quickstart/model_final.pth --input photo.jpg folder "more/*.png" \
        --output output/demo

Files that cannot be read are reported and skipped; the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.data.detection_utils import read_image
from tqdm import tqdm

from vitadapter_d2 import Predictor
from vitadapter_d2.engine.config import load_config
from vitadapter_d2.files import write_image
from vitadapter_d2.inference.drawing import draw_prediction
from vitadapter_d2.inference.inputs import find_images


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config file or name of the zoo")
    parser.add_argument("--weights", help="checkpoint; default: train.init_checkpoint")
    parser.add_argument("--input", nargs="+", required=True, help="files, folders or patterns")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="of instances")
    parser.add_argument("--device", help="cpu or cuda; default: train.device")
    parser.add_argument("--opts", nargs="*", default=[], help="config overrides, key=value")
    return parser.parse_args()


def output_paths(images: list[Path], folder: Path) -> list[Path]:
    """One PNG each; a name that is taken, also by one of the images, gets a number."""
    folder = folder.resolve()
    # Of an image that is a link, neither the link nor the file may be overwritten.
    taken = {path for image in images for path in (image.resolve(), _place(image))}
    endings: dict[str, Iterator[str]] = {}
    paths = []
    for image in images:
        endings.setdefault(image.stem, chain([".png"], map("_{}.png".format, count(2))))
        candidates = (folder / (image.stem + ending) for ending in endings[image.stem])
        paths.append(next(path for path in candidates if path not in taken))
        taken.add(paths[-1])
    return paths


def _place(path: Path) -> Path:
    return path.parent.resolve() / path.name


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    try:
        images = find_images(args.input)
        cfg = LazyConfig.apply_overrides(load_config(args.config_file), args.opts)
        predictor = Predictor(cfg, args.weights, args.device)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    unreadable = []
    paths = output_paths(images, args.output)
    for file, path in tqdm(list(zip(images, paths, strict=True)), unit="image"):
        try:
            image = read_image(str(file), format="BGR")
        except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
            unreadable.append(f"{file}: {error}")
            continue
        prediction = predictor(image)
        drawn = draw_prediction(
            image[:, :, ::-1], prediction, predictor.metadata, args.confidence_threshold
        )
        write_image(path, drawn)
    print(f"{len(images) - len(unreadable)} of {len(images)} images drawn in {args.output}")
    for line in unreadable:
        print(f"skipped {line}", file=sys.stderr)
    return 1 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
