#!/usr/bin/env python
"""Counts the parameters of a config's model, part by part, without allocating them.

python tools/analyze_model.py configs/coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco.py
"""

import argparse
from collections import Counter

import torch
from detectron2.config import LazyConfig, instantiate
from tabulate import tabulate
from torch import nn

from vitadapter_d2.engine.config import load_config


def count_parameters(model: nn.Module, depth: int) -> Counter[str]:
    """Parameters below each prefix of ``depth`` name parts; shared ones count once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[".".join(name.split(".")[:depth])] += parameter.numel()
    return counts


def main() -> None:
    """Prints one table for each config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", help="config files or names of the zoo")
    parser.add_argument("--depth", type=int, default=1, help="name parts in the table")
    parser.add_argument("--opts", nargs="*", default=[], help="overrides, key=value")
    args = parser.parse_args()
    for name in args.configs:
        cfg = LazyConfig.apply_overrides(load_config(name), args.opts)
        with torch.device("meta"):
            model = instantiate(cfg.model)
        counts = count_parameters(model, args.depth)
        rows = [(part, f"{count / 1e6:.3f}") for part, count in counts.items()]
        rows.append(("total", f"{sum(counts.values()) / 1e6:.3f}"))
        print(f"\n{name}")
        print(
            tabulate(
                rows,
                headers=("part", "M parameters"),
                colalign=("left", "right"),
                disable_numparse=True,
            )
        )


if __name__ == "__main__":
    main()
