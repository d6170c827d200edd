"""What a user asks of the demo, checked."""

from dataclasses import dataclass

import torch
from detectron2.data import Metadata
from torch import nn

from vitadapter_d2.engine.errors import ConfigError, nearest
from vitadapter_d2.inference.selection import class_names
from vitadapter_d2.modeling.semantic import SemanticSegmentor


@dataclass(frozen=True)
class DemoOptions:
    """What is shown of a prediction, and how.

    Attributes:
        threshold: instances with a lower score are left out; in [0, 1].
        classes: names of the classes to show; None shows all.
        alpha: weight of the colours against the image, in [0, 1].
        is_json: write results as files too, see ``inference.results_json``.
        batch_size: images that go through the model at once, if they have one size.
        codec: of videos, see ``VideoWriter``.
    """

    threshold: float = 0.5
    classes: frozenset[str] | None = None
    alpha: float = 0.6
    is_json: bool = False
    batch_size: int = 1
    codec: str | None = None


def chosen_classes(text: str | None, metadata: Metadata) -> frozenset[str] | None:
    """The classes of a list such as ``"person,dog"``; None for None.

    Raises:
        ConfigError: a name that the data set does not have.
    """
    if text is None:
        return None
    legal = class_names(metadata)
    names = [text] if text in legal else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in legal:
            raise ConfigError(f"no class {name!r}; nearest: {', '.join(nearest(name, legal))}")
    return frozenset(names)


def chosen_threshold(model: nn.Module, score: float | None) -> float:
    """The score that instances need to be shown; None for the usual one.

    Raises:
        ConfigError: a score is given, the model gives no instances.
    """
    if score is None:
        return DemoOptions.threshold
    if not getattr(model, "instance_on", not isinstance(model, SemanticSegmentor)):
        raise ConfigError(
            f"{type(model).__name__} of this config gives no instances, which alone have scores"
        )
    return score


def set_panoptic_thresholds(
    model: nn.Module, score: float | None = None, overlap: float | None = None
) -> None:
    """Changes what panoptic segments of a model need; None leaves it as the config has it.

    Args:
        model: with ``object_mask_threshold`` and ``overlap_threshold``, as Mask2Former.
        score: class probability.
        overlap: share of its mask that a segment must own.

    Raises:
        ConfigError: the model gives no panoptic output.
    """
    for name, value in (("object_mask_threshold", score), ("overlap_threshold", overlap)):
        if value is None:
            continue
        if not getattr(model, "panoptic_on", False):
            raise ConfigError(f"{type(model).__name__} of this config gives no panoptic output")
        setattr(model, name, value)


def check_device(name: str) -> None:
    """Raises a ConfigError for a device that torch cannot use here."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
