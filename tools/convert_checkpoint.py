#!/usr/bin/env python
"""Converts a checkpoint of another project to one of a config's model, and says what became of it.

    python tools/convert_checkpoint.py deit_small_patch16_224-cd65a155.pth output/deit_small.pth \
        --config-file coco/mask_rcnn_deit_adapter_small_fpn_1x_coco

SRC may be a URL, which is downloaded once. DST gets the model's names and sizes; beside it, as
DST's name with .report.json, lies where every tensor came from. Whatever is missing or left over
beyond what is known to be of no use is an error, and nothing is written. Arguments key=value
override fields of the config.
"""

import argparse
import sys
from pathlib import Path

import torch

from vitadapter_d2.checkpoint.conversion import KINDS, Conversion, convert_checkpoint
from vitadapter_d2.checkpoint.reading import read_checkpoint
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.files import replacing


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    kinds = "\n".join(f"  {kind.name:15} {kind.what}" for kind in KINDS.values())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"kinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="checkpoint: file or URL")
    parser.add_argument("target", metavar="DST", type=Path, help="file to write, .pth")
    parser.add_argument("--config-file", required=True, help="config file or name of the zoo")
    parser.add_argument("--kind", choices=[*KINDS], help="default: found out from the names")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument(
        "--trust", action="store_true", help="read it even if it could run code in doing so"
    )
    parser.add_argument("--allow-partial", action="store_true", help="convert what fits")
    parser.add_argument("--overwrite", action="store_true", help="replace DST")
    parser.add_argument("opts", nargs="*", help="config overrides, key=value")
    return parser.parse_intermixed_args()  # overrides may follow options


def convert(args: argparse.Namespace) -> Conversion:
    """Reads, builds the model without memory, converts."""
    cfg = load_config(args.config_file, args.opts)
    state_dict = read_checkpoint(args.source, trust=args.trust, ema=args.ema)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    return convert_checkpoint(state_dict, model, args.kind, args.allow_partial)


def write(conversion: Conversion, target: Path, report_file: Path) -> None:
    """The report last: where it is, all is."""
    # Copies: a part of a larger tensor would be saved with the whole of it.
    tensors = {name: part.contiguous().clone() for name, part in conversion.state_dict.items()}
    with replacing(target) as file:
        torch.save({"model": tensors}, file)
    with replacing(report_file, "w") as file:
        file.write(conversion.report.to_json())


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    report_file = args.target.with_suffix(".report.json")
    try:
        for file in (args.target, report_file):
            if file.exists() and not args.overwrite:
                raise ValueError(f"{file} is there already; --overwrite replaces it")
        conversion = convert(args)
        write(conversion, args.target, report_file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(conversion.report.lines()))
    print(f"written to {args.target}, all names to {report_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
