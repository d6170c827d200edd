"""Which part of a prediction is shown and written."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from detectron2.data import Metadata
from torch import Tensor

from vitadapter_d2.inference.semantic import SemanticLabels


def class_names(metadata: Metadata) -> list[str]:
    """All names of a data set, things first, each once."""
    names = [*metadata.get("thing_classes", ()), *metadata.get("stuff_classes", ())]
    return list(dict.fromkeys(names))


def select(
    prediction: Mapping[str, Any],
    metadata: Metadata,
    threshold: float = 0.0,
    classes: Collection[str] | None = None,
) -> dict[str, Any]:
    """What is worth showing of a prediction, in main memory.

    Args:
        prediction: Detectron2's output dict of an image.
        metadata: class names of the data set.
        threshold: instances with a lower score are left out; in [0, 1].
        classes: names of the classes to keep; None keeps all.

    Returns:
        The same keys. ``sem_seg`` is ``SemanticLabels``, where the number of classes stands for
        pixels of a class that is not kept; in ``panoptic_seg`` these are 0.
    """
    selected = dict(prediction)
    things, stuff = metadata.get("thing_classes", ()), metadata.get("stuff_classes", ())
    if "instances" in prediction:
        instances = prediction["instances"]
        kept = instances.scores >= threshold
        kept &= _is_kept(instances.pred_classes, things, classes)
        selected["instances"] = instances[kept].to("cpu")
    if "sem_seg" in prediction:
        selected["sem_seg"] = _labels(prediction["sem_seg"], stuff, classes)
    if "panoptic_seg" in prediction:
        ids, infos = prediction["panoptic_seg"]
        selected["panoptic_seg"] = _segments(ids, infos, things, stuff, classes)
    return selected


def _is_kept(labels: Tensor, names: Sequence[str], classes: Collection[str] | None) -> Tensor:
    """Bool of the shape of ``labels``."""
    if classes is None:
        return torch.ones_like(labels, dtype=torch.bool)
    numbers = [number for number, name in enumerate(names) if name in classes]
    return torch.isin(labels, torch.tensor(numbers, dtype=labels.dtype, device=labels.device))


def _labels(
    scores: Tensor | SemanticLabels, names: Sequence[str], classes: Collection[str] | None
) -> SemanticLabels:
    labels, count = scores.argmax(dim=0).cpu(), scores.shape[0]
    return SemanticLabels(labels.where(_is_kept(labels, names, classes), count), count)


def _segments(
    ids: Tensor,
    infos: Sequence[dict[str, Any]],
    things: Sequence[str],
    stuff: Sequence[str],
    classes: Collection[str] | None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    ids = ids.cpu()
    if classes is None:
        return ids, list(infos)
    kept = [
        info
        for info in infos
        if (things if info["isthing"] else stuff)[info["category_id"]] in classes
    ]
    numbers = torch.tensor([info["id"] for info in kept], dtype=ids.dtype)
    return ids.where(torch.isin(ids, numbers), 0), kept
