#!/usr/bin/env python
"""Counts a config's parameters, multiply-adds and activations, part by part.

python tools/analyze_model.py coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco --size 800 1280

Without --step nothing of the model is allocated.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from _activations import count_saved, count_saved_on_meta, recompute_everything, running_module
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.errors import exit_status
from vitadapter_d2.engine.train import build_loader
from vitadapter_d2.engine.training.trainer import AMP_DTYPES


@dataclass(frozen=True)
class Column:
    """Of the table: title, numbers of the parts, what they are divided by."""

    title: str
    counts: Counter[str]
    unit: float


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
    counter = FlopCounterMode(display=False)

    def charge(name: str) -> None:
        counts[_prefix(name, depth)] += counter.get_total_flops() // 2 - counts.total()

    with running_module(model, charge), counter:
        forward(torch.empty(1, 3, *size, device=device))
    return +counts


def count_activations(
    model: nn.Module, size: tuple[int, int], depth: int
) -> tuple[Counter[str], Counter[str]]:
    """Bytes that the forward of one image in training keeps for the backward.

    Losses are not run: of a detector backbone and neck count, as in `count_multiply_adds`.

    Args:
        model: on the meta device; put into training mode, activation checkpointing switched on.
        size: (height, width) of the image.
        depth: as for `count_parameters`.

    Returns:
        With the model as its config makes it, and with all activation checkpointing on.
    """
    forward = model.semantic_scores if is_whole(model) else model.backbone
    prefix = partial(_prefix, depth=depth)
    as_is = count_saved_on_meta(model, forward, size, prefix)
    recompute_everything(model)
    return as_is, count_saved_on_meta(model, forward, size, prefix)


def count_step(cfg: DictConfig, depth: int) -> tuple[Counter[str], Counter[str]]:
    """As `count_activations`, of a whole training step on the config's data and device.

    Args:
        cfg: its ``dataloader.train`` gives one batch.
        depth: as for `count_parameters`.
    """
    model = instantiate(cfg.model).to(cfg.train.device).train()
    batch = next(iter(build_loader(cfg, seed=0)))
    amp = cfg.train.amp

    def forward() -> dict[str, torch.Tensor]:
        dtype = AMP_DTYPES[amp.dtype] if amp.enabled else None
        with EventStorage(), torch.autocast(cfg.train.device, dtype, enabled=amp.enabled):
            return model(batch)

    prefix = partial(_prefix, depth=depth)
    as_is = count_saved(model, forward, prefix)
    recompute_everything(model)
    return as_is, count_saved(model, forward, prefix)


def is_whole(model: nn.Module) -> bool:
    """Whether all of a model can be counted, rather than its backbone and neck."""
    return hasattr(model, "semantic_scores")


def _prefix(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _table(columns: list[Column]) -> str:
    parts = dict.fromkeys(part for column in columns for part in column.counts)
    rows = [
        [
            part,
            *(
                f"{column.counts[part] / column.unit:.3f}" if part in column.counts else ""
                for column in columns
            ),
        ]
        for part in parts
    ]
    totals = (f"{column.counts.total() / column.unit:.3f}" for column in columns)
    return tabulate(
        [*rows, ["total", *totals]],
        headers=["part", *(column.title for column in columns)],
        colalign=("left", *("right" for _ in columns)),
        disable_numparse=True,
    )


def _columns(model: nn.Module, cfg: DictConfig, args: argparse.Namespace) -> list[Column]:
    columns = [Column("M parameters", count_parameters(model, args.depth), 1e6)]
    size = args.size and (args.size[0], args.size[1])
    if size:
        counts = count_multiply_adds(model, size, args.depth)
        columns.append(Column("G multiply-adds", counts, 1e9))
    saved: Sequence[Counter[str]] = ()
    if args.step:
        saved = count_step(cfg, args.depth)
    elif args.activations:
        saved = count_activations(model, size, args.depth)
    titles = ("MiB of activations", "MiB, recomputing")
    return columns + [Column(*one, 2**20) for one in zip(titles, saved, strict=False)]


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
    parser.add_argument(
        "--activations",
        action="store_true",
        help="with --size: the memory of activations that the training on one image of that size "
        "keeps in float32, as the config is and with all activation checkpointing on (its fields: "
        "model.*.vit.recompute_blocks, model.*.interactions.recompute_attention); nothing is "
        "allocated. Recomputing needs one block's activations more, for a moment",
    )
    parser.add_argument(
        "--step",
        action="store_true",
        help="the same of a whole training step, heads and losses included, on a batch of the "
        "config's data and on train.device; a smaller batch: "
        "--opts dataloader.train.total_batch_size=1",
    )
    parser.add_argument("--opts", nargs="*", default=[], help="overrides, key=value")
    args = parser.parse_args()
    if args.activations and not args.size:
        parser.error("--activations needs --size HEIGHT WIDTH")
    for name in args.configs:
        cfg = load_config(name, args.opts)
        with torch.device("meta"):
            model = instantiate(cfg.model).eval()
        print(f"\n{name}")
        print(_table(_columns(model, cfg, args)))
        if args.size and not is_whole(model):
            what = "multiply-adds and activations" if args.activations else "multiply-adds"
            print(f"({what} of backbone and neck only: the rest depends on what is found)")


if __name__ == "__main__":
    sys.exit(exit_status(main))
