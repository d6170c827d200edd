"""Which box is to find which object, by overlap."""

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor


class MaxIoUMatcher(Matcher):
    """Detectron2's matcher with the rules of mmdetection, by which the released models trained.

    What it does otherwise: an object claims the boxes that overlap it most only if that overlap is
    large enough, and it then gets them, even where they overlap another object more.

    Reference: Faster R-CNN, Sec. 3.1.2, arXiv 1506.01497, whose condition (i) is the claim.

    Args:
        thresholds: overlaps between which ``labels`` change, ascending.
        labels: of a box by its largest overlap: 1 object, 0 background, -1 neither.
        min_low_quality_iou: overlap from which an object claims its best boxes; None: never.
        objects_are_last: the last boxes are the objects themselves, as ROI heads append them. Each
            is its own and does not count as the best of its object.
    """

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        min_low_quality_iou: float | None = None,
        objects_are_last: bool = False,
    ) -> None:
        super().__init__(list(thresholds), list(labels))
        self.min_low_quality_iou = min_low_quality_iou
        self.objects_are_last = objects_are_last

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Matches the boxes of one image.

        Args:
            match_quality_matrix: ``(G, N)`` float in [0, 1], the overlap of each object and box.

        Returns:
            The object of each box ``(N,)`` int64, and its label ``(N,)`` int8. Without objects all
            are background of object 0.

        Raises:
            ValueError: the objects are to be among the boxes, and these are fewer.
        """
        num_objects, num_boxes = match_quality_matrix.shape
        if not self.objects_are_last:
            return self._match(match_quality_matrix)
        if num_boxes < num_objects:
            raise ValueError(
                f"the objects must be the last of the boxes, got {num_boxes} boxes for "
                f"{num_objects} objects"
            )
        matches, labels = self._match(match_quality_matrix[:, : num_boxes - num_objects])
        own = torch.arange(num_objects, device=matches.device)
        return torch.cat((matches, own)), torch.cat((labels, labels.new_ones(num_objects)))

    def _match(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        matches, labels = super().__call__(overlaps)
        if self.min_low_quality_iou is None or not overlaps.numel():
            return matches, labels
        best = overlaps.amax(dim=1, keepdim=True)
        claims = (overlaps == best) & (best >= self.min_low_quality_iou)
        objects, boxes = claims.nonzero(as_tuple=True)
        # Of several claims the last object's counts.
        owners = torch.full_like(matches, -1).scatter_reduce(0, boxes, objects, "amax")
        is_claimed = owners >= 0
        return owners.where(is_claimed, matches), labels.masked_fill(is_claimed, 1)
