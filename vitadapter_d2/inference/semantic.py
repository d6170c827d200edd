"""The published ways to test semantic segmentation: whole image, sliding window, multi-scale."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitadapter_d2.inference.resize_rules import (
    NativeSize,
    ResizeRule,
    Size,
    as_array,
    resize_image,
)
from vitadapter_d2.inference.sliding_window import ScoreFn, SlidingWindow
from vitadapter_d2.inference.strips import resize_strips, strips_of

MODES = ("whole", "slide", "ms")
PUBLISHED_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


class SemanticModel(Protocol):
    """What a model offers to be tested."""

    def normalize(self, image: Tensor) -> Tensor:
        """Raw ``(3, H, W)`` to what the network takes, on its device."""

    def semantic_scores(self, images: Tensor) -> Tensor:
        """Normalised ``(B, 3, H, W)`` to scores ``(B, K, H, W)``, before any softmax."""


class SemanticLabels:
    """Stands for scores ``(K, H, W)`` that are too large to be held; keeps the best class only.

    Offers of a tensor what Detectron2's evaluator and Visualizer ask for.

    Args:
        labels: ``(H, W)`` int64.
        num_classes: K.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.labels = labels
        self.shape = torch.Size((num_classes, *labels.shape))

    def argmax(self, dim: int = 0) -> Tensor:
        """The labels, ``(H, W)`` int64; over the classes only."""
        if dim not in (0, -3):
            raise ValueError(f"only the largest of the classes is known: dim must be 0, got {dim}")
        return self.labels

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same on another device."""
        return type(self)(self.labels.to(*args, **kwargs), self.shape[0])

    def cpu(self) -> Self:
        """The same in main memory."""
        return self.to("cpu")


@dataclass(frozen=True)
class _View:
    """One way to look at an image.

    Attributes:
        steps: sizes that it is resized through.
        is_flipped: mirrored left to right.
        share: weight in the mean, all of them adding up to 1.
    """

    steps: tuple[Size, ...]
    is_flipped: bool
    share: float


class SemanticTester(nn.Module):
    """Detectron2's input and output around a model, tested as the papers do.

    Each view of an image (a size, mirrored or not) gives a map of scores; it is resized to the
    output size, a softmax over the classes follows, the mirroring is undone, and the mean over the
    views is the result. Reference: ViT-Adapter, Sec. 4.2 "Semantic segmentation" and the test
    settings of its released configurations, arXiv 2205.08534.

    Inputs are images of the original size: the tester owns the resizing, so the mapper must not
    resize. It happens on the CPU by OpenCV, whose numbers are those of the official code.

    Args:
        model: gives ``semantic_scores`` and ``normalize``.
        mode: "whole" and "slide" look at one size, at once or through ``window``; "ms" looks at
            all ``ms_ratios``, mirrored too, through ``window`` if there is one.
        window: the sliding window.
        resize: size in the modes "whole" and "slide".
        ms_resize: sizes in the mode "ms"; None takes ``resize``.
        ms_ratios: scales in the mode "ms". Those that come to the same size are computed once and
            counted as often as they come.
        flip: look at the mirrored image too in the modes "whole" and "slide".
        max_score_elements: results of more numbers (2 GiB by default) are given as
            ``SemanticLabels``, made from top to bottom without ever holding all scores; 0 always
            gives labels. Held is one row of windows for each view: 5.2 GiB in all, rather than
            13.4 for the scores alone, for 6000 x 4000 pixels, 150 classes and windows of 896.

    Raises:
        ValueError: the mode is unknown, "slide" has no window, or a model or ratio cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str = "whole",
        *,
        window: SlidingWindow | None = None,
        resize: ResizeRule | None = None,
        ms_resize: ResizeRule | None = None,
        ms_ratios: Sequence[float] = PUBLISHED_RATIOS,
        flip: bool = False,
        max_score_elements: int = 2**29,
    ) -> None:
        super().__init__()
        _check(model, mode, window, ms_ratios)
        self.model = model
        self.mode = mode
        self.window = None if mode == "whole" else window
        self.rule = resize or NativeSize()
        self.ratios: tuple[float, ...] = (1.0,)
        self.flips = (False, True) if flip else (False,)
        if mode == "ms":
            self.rule = ms_resize or self.rule
            self.ratios = tuple(ms_ratios)
            self.flips = (False, True)
        self.max_score_elements = max_score_elements
        self.training = model.training  # evaluation restores this afterwards, in the model too

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tests one image after the other.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` ``(3, H, W)``, raw; optionally
                ``height`` and ``width`` of the output, those of the image if missing.

        Returns:
            For each image ``sem_seg``: mean class probabilities ``(K, height, width)`` float32, or
            ``SemanticLabels`` of that shape.

        Raises:
            ValueError: an image is not ``(3, H, W)`` or is empty.
        """
        return [{"sem_seg": self._test(item)} for item in batched_inputs]

    def _test(self, item: dict[str, Any]) -> Tensor | SemanticLabels:
        image = as_array(item["image"])
        size: Size = (image.shape[0], image.shape[1])
        target = (int(item.get("height", size[0])), int(item.get("width", size[1])))
        views = self._views(size)
        strips = strips_of(target, [view.steps[-1] for view in views])
        streams = [self._probabilities(view, image, target, strips) for view in views]
        first = next(streams[0])
        streams[0] = chain([first], streams[0])
        shares = [view.share for view in views]
        if len(first) * target[0] * target[1] > self.max_score_elements:
            return SemanticLabels(_labels(streams, shares, target, strips), len(first))
        return _scores(streams, shares, target, strips)

    def _views(self, size: Size) -> list[_View]:
        """Each size unflipped, then flipped."""
        counts = Counter(self.rule.steps(size, ratio) for ratio in self.ratios)
        total = len(self.ratios) * len(self.flips)
        return [
            _View(steps, is_flipped, count / total)
            for steps, count in counts.items()
            for is_flipped in self.flips
        ]

    def _probabilities(
        self, view: _View, image: np.ndarray, target: Size, strips: Sequence[slice]
    ) -> Iterator[Tensor]:
        """``(K, rows, width)`` of each strip."""
        model = cast(SemanticModel, self.model)
        resized = torch.from_numpy(resize_image(image, view.steps)).permute(2, 0, 1)
        if view.is_flipped:
            resized = resized.flip(-1)
        network_input = self.rule.network_input(resized, model.normalize)[None]
        bands = (band[0] for band in self._bands(model.semantic_scores, network_input))
        for rows in resize_strips(bands, view.steps[-1], target, strips):
            probabilities = rows.softmax(0)
            yield probabilities.flip(-1) if view.is_flipped else probabilities

    def _bands(self, score_fn: ScoreFn, images: Tensor) -> Iterator[Tensor]:
        if self.window is not None:
            return self.window.bands(score_fn, images)
        return iter([score_fn(images).float()])


def _scores(
    streams: Sequence[Iterator[Tensor]],
    shares: Sequence[float],
    size: Size,
    strips: Sequence[slice],
) -> Tensor:
    """The mean, view after view, so that one is held at a time."""
    mean: Tensor | None = None
    for stream, share in zip(streams, shares, strict=True):
        for strip, probabilities in zip(strips, stream, strict=True):
            if mean is None:
                mean = probabilities.new_zeros(len(probabilities), *size)
            mean[:, strip].add_(probabilities, alpha=share)
    assert mean is not None, "there is at least one view and one strip"
    return mean


def _labels(
    streams: Sequence[Iterator[Tensor]],
    shares: Sequence[float],
    size: Size,
    strips: Sequence[slice],
) -> Tensor:
    """The best class of the mean, strip after strip, all views at once."""
    labels: Tensor | None = None
    for strip in strips:
        parts = (next(stream).mul_(share) for stream, share in zip(streams, shares, strict=True))
        best = reduce(Tensor.add_, parts).max(0).indices
        if labels is None:  # one piece: small ones kept between large ones fragment the heap
            labels = best.new_empty(size)
        labels[strip] = best
    assert labels is not None, "there is at least one strip"
    return labels


def _check(
    model: nn.Module, mode: str, window: SlidingWindow | None, ratios: Sequence[float]
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "slide" and window is None:
        raise ValueError("mode 'slide' needs a window, got None")
    for method in ("semantic_scores", "normalize"):
        if not hasattr(model, method):
            raise ValueError(f"the model needs a method {method}, got {type(model).__name__}")
    if not ratios or min(ratios) <= 0:
        raise ValueError(f"ms_ratios must be positive numbers, at least one, got {ratios}")
