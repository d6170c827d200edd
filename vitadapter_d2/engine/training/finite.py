"""Stopping at the first loss or gradient that is no number, with what is needed to look into it."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

BATCH_FILE = "nonfinite_batch.json"
_DESCRIBING = ("file_name", "sem_seg_file_name", "pan_seg_file_name", "image_id", "height", "width")
_SHOWN = 8


@dataclass(frozen=True)
class StepReport:
    """What one process found in one step.

    Attributes:
        losses: name to value, of each micro-batch.
        grad_norm: of the whole gradient, which all processes share.
        data_time: seconds spent waiting for data.
        stop: signal that has asked the process to end.
    """

    losses: list[dict[str, float]]
    grad_norm: float
    data_time: float
    stop: Signals | None = None


def describe(batch: list[Any]) -> list[dict[str, Any]]:
    """Files, ids and sizes of a batch in Detectron2's input format, for JSON."""
    return [
        {key: sample[key] for key in _DESCRIBING if key in sample}
        for sample in batch
        if isinstance(sample, dict)
    ]


def check_finite(
    iteration: int,
    reports: list[StepReport],
    batches: list[list[dict[str, Any]]],
    model: nn.Module,
    *,
    seed: int,
    output_dir: str | None,
    check_gradient: bool = True,
) -> None:
    """Raises in all processes if one has a loss or gradient that is not finite.

    Args:
        iteration: of the step.
        reports: of all processes, the same in all.
        batches: this process's micro-batches, see :func:`describe`.
        model: names the parameters.
        seed: of the run, for the file.
        output_dir: folder for ``nonfinite_batch.json``; None writes none.
        check_gradient: False where a loss scale is being found.

    Raises:
        FloatingPointError: it names the iteration, the losses with their values, and the images.
    """
    wrong = [f"{name} is {value} in process {rank}" for rank, name, value in _wrong(reports)]
    if not wrong and check_gradient and not math.isfinite(reports[0].grad_norm):
        culprits = (name for name, p in model.named_parameters() if not _is_finite(p.grad))
        first = next(culprits, "none alone: their sum overflows")
        wrong = [f"the gradient has norm {reports[0].grad_norm} (first in {first})"]
        guilty = [list(range(len(report.losses))) for report in reports]
    elif wrong:
        guilty = [
            [k for k, losses in enumerate(report.losses) if not _are_finite(losses)]
            for report in reports
        ]
    else:
        return
    mine = [batches[k] for k in guilty[comm.get_rank()]]
    images = [image for batch in sum(comm.all_gather(mine), []) for image in batch]
    told = f"at iteration {iteration} {_first(wrong)}"
    where = _write(output_dir, iteration, seed, wrong, images) if comm.is_main_process() else ""
    names = [str(image.get("file_name", image.get("image_id"))) for image in images]
    raise FloatingPointError(
        f"{told}; images: {_first(names) or 'unknown'}{where}. The weights "
        "were not changed, and the newest checkpoint is from before"
    )


def _first(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _wrong(reports: list[StepReport]) -> Iterator[tuple[int, str, float]]:
    for rank, report in enumerate(reports):
        for losses in report.losses:
            for name, value in losses.items():
                if not math.isfinite(value):
                    yield rank, name, value


def _are_finite(losses: dict[str, float]) -> bool:
    return all(map(math.isfinite, losses.values()))


def _is_finite(gradient: torch.Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _write(
    output_dir: str | None, iteration: int, seed: int, wrong: list[str], images: list[dict]
) -> str:
    """Writes the batch; returns where, for the message."""
    if output_dir is None:
        return ""
    path = Path(output_dir, BATCH_FILE)
    content = {"iteration": iteration, "seed": seed, "wrong": wrong, "images": images}
    with contextlib.suppress(OSError):  # the error itself is more important
        with replacing(path, "w") as file:
            json.dump(content, file, indent=1, default=str)
        return f" (all in {path})"
    return ""
