"""Non-maximum suppression that lowers scores instead of dropping boxes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """What is left, best first.

    Attributes:
        indices: ``(M,)`` int64, places in the input.
        scores: ``(M,)`` float, the lowered scores, falling.
    """

    indices: Tensor
    scores: Tensor


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    max_boxes: int | None = None,
) -> Kept:
    """Takes the best box, multiplies overlapping scores of its class by 1 - IoU, and repeats.

    Boxes come out in the order of their lowered scores, so ``max_boxes`` of them cost that many
    steps over all boxes, whatever their number; nothing is read back from the device in between.

    Reference: Soft-NMS, the linear function of Eq. 2, arXiv 1704.04503, applied where IoU is at
    least the threshold.

    Args:
        boxes: ``(N, 4)`` float, x0 y0 x1 y1, finite.
        scores: ``(N,)`` float.
        classes: ``(N,)`` integers; boxes of different classes do not meet.
        iou_threshold: in [0, 1], smaller overlaps cost nothing.
        min_score: boxes whose score falls below it are dropped.
        max_boxes: how many to give at most; None gives all.

    Returns:
        The indices and scores of at most ``max_boxes`` boxes.

    Raises:
        ValueError: if the threshold or ``max_boxes`` is out of range.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    if max_boxes is not None and max_boxes < 0:
        raise ValueError(f"max_boxes must not be negative, got {max_boxes}")
    steps = len(boxes) if max_boxes is None else min(len(boxes), max_boxes)
    left = scores.clone()
    areas = _areas(boxes)
    indices = classes.new_empty(steps, dtype=torch.int64)
    taken = scores.new_empty(steps)
    for step in range(steps):
        best_score, best = left.max(dim=0)
        indices[step], taken[step] = best, best_score
        iou = _iou(boxes, areas, best)
        meets = (classes == classes[best]) & (iou >= iou_threshold)
        left = torch.where(meets, left * (1 - iou), left)
        left[best] = -torch.inf
    stays = taken >= min_score
    return Kept(indices[stays], taken[stays])


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def _iou(boxes: Tensor, areas: Tensor, one: Tensor) -> Tensor:
    """IoU ``(N,)`` of all boxes with one of them; 0 for two boxes without area."""
    upper_left = torch.maximum(boxes[:, :2], boxes[one, :2])
    lower_right = torch.minimum(boxes[:, 2:], boxes[one, 2:])
    shared = (lower_right - upper_left).clamp(min=0).prod(dim=1)
    union = areas + areas[one] - shared
    return shared / union.clamp(min=torch.finfo(boxes.dtype).tiny)
