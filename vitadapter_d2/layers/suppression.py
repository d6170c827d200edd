"""Ways to choose among overlapping boxes, as objects that a config names."""

from dataclasses import dataclass
from typing import Protocol

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from vitadapter_d2.layers.soft_nms import Kept, soft_nms


class Suppression(Protocol):
    """Takes the best boxes of each class and holds back those that show the same object."""

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, max_boxes: int | None = None
    ) -> Kept:
        """Chooses.

        Args:
            boxes: ``(N, 4)`` float, x0 y0 x1 y1, finite.
            scores: ``(N,)`` float.
            classes: ``(N,)`` integers; boxes of different classes do not meet.
            max_boxes: how many to give at most; None gives all.
        """


@dataclass(frozen=True)
class NMS:
    """Drops boxes that overlap a better one.

    Attributes:
        iou_threshold: in [0, 1], overlaps up to it are allowed.
    """

    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be in [0, 1], got {self.iou_threshold}")

    @torch.no_grad()
    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, max_boxes: int | None = None
    ) -> Kept:
        """See :class:`Suppression`."""
        kept = batched_nms(boxes, scores.float(), classes, self.iou_threshold)[:max_boxes]
        return Kept(kept, scores[kept])


@dataclass(frozen=True)
class SoftNMS:
    """Lowers the scores of boxes that overlap a better one.

    Reference: Soft-NMS, arXiv 1704.04503; see :func:`soft_nms`.

    Attributes:
        iou_threshold: in [0, 1], smaller overlaps cost nothing.
        min_score: boxes whose score falls below it are dropped.
    """

    iou_threshold: float = 0.5
    min_score: float = 0.001

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, max_boxes: int | None = None
    ) -> Kept:
        """See :class:`Suppression`."""
        return soft_nms(
            boxes,
            scores,
            classes,
            iou_threshold=self.iou_threshold,
            min_score=self.min_score,
            max_boxes=max_boxes,
        )
