#!/usr/bin/env python
"""Counts a config's parameters and multiply-adds, part by part, without allocating the model.

python tools/analyze_model.py coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco --size 800 1280
"""

import argparse
from collections import Counter
from contextlib import ExitStack
from functools import partial

import torch
from detectron2.config import LazyConfig, instantiate
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitadapter_d2.engine.config import load_config


def count_parameters(model: nn.Module, depth: int) -> Counter[str]:
    """Parameters below each prefix of ``depth`` name parts; shared ones count once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[_prefix(name, depth)] += parameter.numel()
    return counts


def count_multiply_adds(model: nn.Module, size: tuple[int, int], depth: int) -> Counter[str]:
    """Multiply-adds of one image, charged to the innermost module that runs.

    What torch's ``FlopCounterMode`` counts: matrix products, convolutions, attention, deformable
    attention; no norms, activations and interpolations, which are below 1 %.

    Args:
        model: in evaluation mode, best on the meta device. Of a detector, whose heads see as many
            boxes as there are objects, the backbone with its neck is counted: see `is_whole`.
        size: (height, width) of the image.
        depth: as for `count_parameters`.
    """
    forward = model.semantic_scores if is_whole(model) else model.backbone
    device = next(model.parameters()).device
    counts: Counter[str] = Counter()
    running = ["(itself)"]
    counter = FlopCounterMode(display=False)

    def charge() -> None:
        counts[_prefix(running[-1], depth)] += counter.get_total_flops() // 2 - counts.total()

    def enter(name: str, *_: object) -> None:
        charge()
        running.append(name)

    def leave(*_: object) -> None:
        charge()
        running.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_pre_hook(partial(enter, name)))
            stack.enter_context(module.register_forward_hook(leave))
        with counter:
            forward(torch.empty(1, 3, *size, device=device))
    charge()
    return +counts


def is_whole(model: nn.Module) -> bool:
    """Whether all of a model can be counted, rather than its backbone and neck."""
    return hasattr(model, "semantic_scores")


def _prefix(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _table(model: nn.Module, depth: int, size: tuple[int, int] | None) -> str:
    columns = [("M parameters", count_parameters(model, depth), 1e6)]
    if size:
        columns.append(("G multiply-adds", count_multiply_adds(model, size, depth), 1e9))
    parts = dict.fromkeys(part for _, counts, _ in columns for part in counts)
    rows = [
        [
            part,
            *(
                f"{counts[part] / unit:.3f}" if part in counts else ""
                for _, counts, unit in columns
            ),
        ]
        for part in parts
    ]
    rows.append(["total", *(f"{counts.total() / unit:.3f}" for _, counts, unit in columns)])
    return tabulate(
        rows,
        headers=["part", *(title for title, _, _ in columns)],
        colalign=("left", *("right" for _ in columns)),
        disable_numparse=True,
    )


def _size(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main() -> None:
    """Prints one table for each config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", help="config files or names of the zoo")
    parser.add_argument("--depth", type=int, default=1, help="name parts in the table")
    parser.add_argument(
        "--size",
        nargs=2,
        type=_size,
        metavar=("HEIGHT", "WIDTH"),
        help="count multiply-adds too, for one image",
    )
    parser.add_argument("--opts", nargs="*", default=[], help="overrides, key=value")
    args = parser.parse_args()
    for name in args.configs:
        cfg = LazyConfig.apply_overrides(load_config(name), args.opts)
        with torch.device("meta"):
            model = instantiate(cfg.model).eval()
        print(f"\n{name}")
        print(_table(model, args.depth, args.size and tuple(args.size)))
        if args.size and not is_whole(model):
            print("(multiply-adds of backbone and neck only: the rest depends on what is found)")


if __name__ == "__main__":
    main()
