#!/usr/bin/env python
"""Draws metrics.json of one or several runs: losses, learning rate, every evaluated metric.

python tools/plot_metrics.py output/quickstart output/shapes --output output/compared.png
"""

import argparse
import json
import math
from fnmatch import fnmatchcase
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from vitadapter_d2.engine.errors import nearest
from vitadapter_d2.engine.records.metric_names import is_of_one_class, is_of_one_layer
from vitadapter_d2.files import replacing

Curve = dict[int, float]  # iteration to value
_FIRST = ("total_loss", "lr")
_COLUMNS = 4
_FORMATS = (".png", ".pdf", ".svg", ".jpg")


def read_metrics(path: Path) -> dict[str, Curve]:
    """The curves of a run.

    Args:
        path: a ``metrics.json``, or a folder that has one. A line that is no JSON, as a run leaves
            it that is killed or still writes, is passed over. Of an iteration that was written
            twice the last value counts.

    Returns:
        Names, without ``iteration``, to curves.

    Raises:
        ValueError: there is no such file, or nothing in it.
    """
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no metrics.json at {path}: give the output folder of a training")
    curves: dict[str, Curve] = {}
    for line in file.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            iteration = int(entry.pop("iteration"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in entry.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[iteration] = value
    if not curves:
        raise ValueError(f"{file} holds no metrics yet")
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def chosen_names(runs: dict[str, dict[str, Curve]], patterns: list[str]) -> list[str]:
    """Names of the panels, in their order.

    Args:
        runs: titles to curves.
        patterns: names or shell patterns; none takes the losses, but for those of intermediate
            layers, the learning rate and all metrics of an evaluation, but for single classes.

    Raises:
        ValueError: no run has a name that one of the patterns means.
    """
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    if not patterns:
        losses = [name for name in names if "loss" in name and not is_of_one_layer(name)]
        evaluated = [name for name in names if "/" in name and not is_of_one_class(name)]
        first = [name for name in _FIRST if name in names]
        return list(dict.fromkeys([*first, *evaluated, *losses])) or names
    chosen: list[str] = []
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(
                f"no metric is called {pattern!r}; nearest: {', '.join(nearest(pattern, names))}"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def draw(runs: dict[str, dict[str, Curve]], names: list[str], output: Path) -> None:
    """Writes one picture with a panel for each name, a line for each run.

    Args:
        runs: titles to curves.
        names: of the panels.
        output: file to write; its suffix says the format.

    Raises:
        ValueError: the format is unknown.
    """
    if output.suffix.lower() not in _FORMATS:
        raise ValueError(f"--output must end in one of {', '.join(_FORMATS)}, got {output}")
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained"
    )
    for panel, name in zip(axes.flat, names, strict=False):
        _draw_panel(panel, name, runs)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    if len(runs) > 1:
        handles = [plt.Line2D([], [], color=f"C{index % 10}") for index in range(len(runs))]
        figure.legend(handles, list(runs), loc="outside upper center", ncols=columns)
    with replacing(output) as file:
        figure.savefig(file, format=output.suffix[1:].lower(), dpi=100)
    plt.close(figure)


def _draw_panel(panel: Axes, name: str, runs: dict[str, dict[str, Curve]]) -> None:
    for index, curves in enumerate(runs.values()):
        curve = curves.get(name, {})
        # An evaluation has few points, or one.
        marker = "." if len(curve) < 30 else None
        panel.plot(
            list(curve), list(curve.values()), color=f"C{index % 10}", marker=marker, linewidth=1
        )
    panel.set_title(name, fontsize="medium")
    panel.grid(alpha=0.3)


def _titles(paths: list[Path]) -> list[str]:
    """The folders' names, or the paths where these are not enough."""
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="output folders or metrics.json files")
    parser.add_argument(
        "--output", type=Path, help="picture to write; default metrics.png beside the first run"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names or patterns such as 'sem_seg/*'; default losses, learning rate, evaluations",
    )
    args = parser.parse_args()
    try:
        print(plot(args.runs, args.metrics, args.output))
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None


def plot(paths: list[Path], patterns: list[str], output: Path | None = None) -> str:
    """Draws runs; returns what was drawn where.

    Args:
        paths: of runs, see :func:`read_metrics`.
        patterns: see :func:`chosen_names`.
        output: file to write; None takes ``metrics.png`` beside the first run.
    """
    runs = {title: read_metrics(path) for title, path in zip(_titles(paths), paths, strict=True)}
    if output is None:
        output = (paths[0] if paths[0].is_dir() else paths[0].parent) / "metrics.png"
    names = chosen_names(runs, patterns)
    draw(runs, names, output)
    return f"{len(names)} panels of {', '.join(runs)} are in {output}"


if __name__ == "__main__":
    main()
