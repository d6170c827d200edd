#!/usr/bin/env python
"""Draws training images as a model sees them: after augmentation, with boxes, masks and labels.

    python tools/visualize_data.py --config-file configs/shapes/mask_rcnn_vit_adapter_shapes.py
    python tools/visualize_data.py --config-file F --data my_folder --before --samples 8

With --before, the image and its annotations as they are on disk stand to the left. Every sample
has a file; gallery.png shows the first ones. ``key=value`` arguments override fields of the config.
"""

import argparse
import sys
from pathlib import Path

from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.errors import exit_status
from vitadapter_d2.engine.own.data import add_own_data_flags, use_own_data
from vitadapter_d2.engine.visualize import draw_samples


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config file or name of the zoo")
    parser.add_argument("--output", type=Path, default=Path("output/data"), help="folder")
    parser.add_argument("--samples", type=int, default=12, metavar="N", help="how many images")
    parser.add_argument("--seed", type=int, default=0, help="of images and augmentations")
    parser.add_argument("--before", action="store_true", help="show the raw image beside each")
    parser.add_argument("opts", nargs="*", default=[], help="config overrides, key=value")
    add_own_data_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    cfg = load_config(args.config_file, args.opts)
    cfg.train.output_dir = str(args.output)  # where mended annotations go
    own = use_own_data(cfg, args)
    if own:
        print(*own.lines, *own.notes, sep="\n")
    paths = draw_samples(cfg, args.output, args.samples, seed=args.seed, before=args.before)
    print(f"{len(paths)} training samples drawn in {args.output}, the first in gallery.png")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
