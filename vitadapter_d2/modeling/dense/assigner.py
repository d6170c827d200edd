"""Which anchors are to find which object."""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

_MARGIN = 0.01  # pixels by which the centre of a positive anchor lies inside its object


class ATSSAssigner:
    """Adaptive training sample selection.

    The anchors nearest to an object on each level are its candidates; those become positive whose
    IoU reaches mean plus standard deviation over the candidates and whose centre is inside. An
    anchor of several objects goes to that of the highest IoU.

    Reference: ATSS, Algorithm 1, arXiv 1912.02424.

    Args:
        topk: candidates on each level.

    Raises:
        ValueError: ``topk`` is less than 1.
    """

    def __init__(self, topk: int = 9) -> None:
        if topk < 1:
            raise ValueError(f"topk must be at least 1, got {topk}")
        self.topk = topk

    @torch.no_grad()
    def __call__(self, anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor) -> Tensor:
        """Assigns the anchors of one image.

        Args:
            anchors: ``(N, 4)`` float32, x0 y0 x1 y1, of positive area, level after level.
            level_sizes: anchors of each level, N together.
            boxes: ``(G, 4)`` objects; one without area gets no anchor.

        Returns:
            ``(N,)`` int64, index of the object, -1 for background.
        """
        if not len(boxes):
            return torch.full((len(anchors),), -1, device=anchors.device)
        candidates = self._candidates(anchors, level_sizes, boxes)
        count = candidates.shape[1]
        overlaps = matched_pairwise_iou(
            Boxes(anchors[candidates].flatten(0, 1)), Boxes(boxes.repeat_interleave(count, dim=0))
        ).view(candidates.shape)
        # Of a single candidate there is no sample deviation: take the population's.
        spread, mean = torch.std_mean(overlaps, dim=1, correction=min(1, count - 1), keepdim=True)
        centers = box_centers(anchors)[candidates]  # (G, C, 2)
        sides = torch.cat((centers - boxes[:, None, :2], boxes[:, None, 2:] - centers), dim=-1)
        positive = (overlaps >= mean + spread) & (sides.amin(-1) > _MARGIN)
        best = overlaps.new_full((len(boxes), len(anchors)), -1.0)
        best.scatter_(1, candidates, overlaps.where(positive, -1.0))
        overlap, matched = best.max(dim=0)
        return matched.where(overlap >= 0, -1)

    def _candidates(self, anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor) -> Tensor:
        """``(G, C)`` indices of the anchors whose centres are nearest to the objects'."""
        nearest, start = [], 0
        object_centers = box_centers(boxes)[:, None]
        for size in level_sizes:
            centers = box_centers(anchors[start : start + size])
            distances = (object_centers - centers).square().sum(-1)
            found = distances.topk(min(self.topk, size), dim=1, largest=False).indices
            nearest.append(found + start)
            start += size
        return torch.cat(nearest, dim=1)


def box_centers(boxes: Tensor) -> Tensor:
    """``(..., 4)`` x0 y0 x1 y1 -> ``(..., 2)`` x y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2
