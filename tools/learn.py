#!/usr/bin/env python
"""Trains every detection framework on generated images and says what each has learned.

    python datasets/make_shapes.py
    python tools/learn.py --trunk output/quickstart/model_final.pth
    python tools/learn.py --trunk output/quickstart/model_final.pth --only dino gfl

Each starts from the backbone of a trained model, `make quickstart` gives one. The table is printed
and written to table.md in the output folder; the exit status is 1 if a bar was missed. With
--resume, runs go on where they were stopped, and finished ones are evaluated only.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitadapter_d2.files import replacing

ROOT = Path(__file__).resolve().parents[1]
BOXES = {"bbox/AP": 45.0}
MASKS = {**BOXES, "segm/AP": 40.0}
# Proposals and queries that are learned from nothing take longer to fit tightly.
LOOSE = {"bbox/AP50": 45.0}
_METRICS = ("bbox/AP", "bbox/AP50", "segm/AP")


@dataclass(frozen=True)
class Framework:
    """A configuration of ``configs/shapes`` and what it is expected to reach.

    Attributes:
        title: in the table.
        bars: metric -> the least value, in percent.
        loss_falls: whether the loss tells anything; GFL's is weighted by quality, which grows.
    """

    title: str
    bars: dict[str, float]
    loss_falls: bool = True


FRAMEWORKS = {
    "mask_rcnn": Framework("Mask R-CNN", MASKS),
    "cascade_mask_rcnn": Framework("Cascade Mask R-CNN", MASKS),
    "htcpp": Framework("HTC++", MASKS),
    "atss": Framework("ATSS", BOXES),
    "gfl": Framework("GFL", BOXES, loss_falls=False),
    "mask2former_instance": Framework("Mask2Former instance", MASKS),
    "sparse_rcnn": Framework("Sparse R-CNN", LOOSE),
    "dino": Framework("DINO", LOOSE),
}


@dataclass(frozen=True)
class Outcome:
    """What a finished training left in its ``metrics.json``."""

    iterations: int
    first_loss: float
    last_loss: float
    metrics: dict[str, float]

    def misses(self, framework: Framework) -> list[str]:
        """The bars that were not reached, in words."""
        missed = [
            f"{name} {self.metrics.get(name, 0.0):.1f} < {bar:g}"
            for name, bar in framework.bars.items()
            if not self.metrics.get(name, 0.0) >= bar
        ]
        if framework.loss_falls and not self.last_loss < self.first_loss:
            missed.append(f"loss {self.first_loss:.2f} -> {self.last_loss:.2f}")
        return missed


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", type=Path, required=True, help="checkpoint with the backbone")
    parser.add_argument("--only", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--output", type=Path, default=Path("output/learn"), help="folder")
    parser.add_argument("--resume", action="store_true", help="go on with what was stopped")
    parser.add_argument("--opts", nargs="*", default=[], help="config overrides, key=value")
    args = parser.parse_args()
    if not args.trunk.is_file():
        parser.error(f"{args.trunk} does not exist; `make quickstart` trains it")
    return args


def train(name: str, args: argparse.Namespace) -> Outcome:
    """Trains and evaluates one framework in a process of its own; its log is a file.

    Raises:
        RuntimeError: the process failed.
    """
    folder = args.output / name
    folder.mkdir(parents=True, exist_ok=True)
    config = ROOT / "configs" / "shapes" / f"{name}_vit_adapter_shapes.py"
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(config)]
    command += ["--resume"] * args.resume
    command += [f"train.init_checkpoint={args.trunk}", f"train.output_dir={folder}", *args.opts]
    log = folder / "console.txt"
    with log.open("w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"exit status {status}, see {log}: {' '.join(last)}")
    return read_outcome(folder / "metrics.json")


def read_outcome(path: Path) -> Outcome:
    """Reads what Detectron2's JSON writer wrote; losses are means over a tenth of the lines."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "total_loss" in line]
    losses = [line["total_loss"] for line in steps]
    tenth = max(1, len(losses) // 10)
    metrics = {name: line[name] for line in lines for name in _METRICS if name in line}
    return Outcome(
        iterations=steps[-1]["iteration"] + 1,
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        metrics=metrics,
    )


def rows(args: argparse.Namespace) -> Iterator[tuple[list[str], bool]]:
    """Cells of each framework's row, and whether it reached its bars."""
    for name in args.only:
        framework = FRAMEWORKS[name]
        print(f"training {framework.title}, log in {args.output / name}", file=sys.stderr)
        start = time.perf_counter()
        try:
            outcome = train(name, args)
        except RuntimeError as error:
            yield [framework.title, *["-"] * 6, str(error)], False
            continue
        minutes = (time.perf_counter() - start) / 60
        missed = outcome.misses(framework)
        metrics = [f"{outcome.metrics[m]:.1f}" if m in outcome.metrics else "" for m in _METRICS]
        loss = f"{outcome.first_loss:.2f} -> {outcome.last_loss:.2f}"
        cells = [f"{outcome.iterations}", f"{minutes:.1f}", loss, *metrics]
        yield [framework.title, *cells, "; ".join(missed) or "reached"], not missed


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    head = ["framework", "iterations", "minutes", "loss", "box AP", "box AP50", "mask AP", "bars"]
    table, all_reached = [head, ["---"] * len(head)], True
    for cells, reached in rows(args):
        table.append(cells)
        all_reached &= reached
        text = "".join(f"| {' | '.join(line)} |\n" for line in table)
        with replacing(args.output / "table.md", "w") as file:
            file.write(text)
    print(text)
    return 0 if all_reached else 1


if __name__ == "__main__":
    sys.exit(main())
