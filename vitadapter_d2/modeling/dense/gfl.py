"""Generalised focal loss."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from vitadapter_d2.modeling.dense.anchors import AnchorGrid, DenseTargets
from vitadapter_d2.modeling.dense.assigner import box_centers
from vitadapter_d2.modeling.dense.detector import AnchorDetector
from vitadapter_d2.modeling.dense.head import DenseHead
from vitadapter_d2.modeling.dense.losses import distribution_focal_loss, quality_focal_loss

_BELOW_MAX = 0.1  # distances are cut this much below the last bin


class GFLHead(DenseHead):
    """Classes with the quality of the box as their score, and distributions of its four sides.

    Reference: GFL, Sec. 3, arXiv 2006.04388. Its box branch gives ``(B, 4 * (reg_max + 1), H, W)``
    logits: of the left, upper, right and lower distance, each over the numbers 0 to ``reg_max``.

    Args:
        in_channels: width of the levels.
        num_classes: K.
        reg_max: the largest distance, in strides.
        **options: of ``DenseHead``.

    Raises:
        ValueError: ``reg_max`` is less than 1.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, reg_max: int = 16, **options: Any
    ) -> None:
        if reg_max < 1:
            raise ValueError(f"reg_max must be at least 1, got {reg_max}")
        super().__init__(in_channels, num_classes, box_dim=4 * (reg_max + 1), **options)
        self.reg_max = reg_max


class GFL(AnchorDetector):
    """Quality focal loss, GIoU loss and distribution focal loss.

    Reference: GFL, Sec. 3.3, arXiv 2006.04388. The losses of boxes are weighted by the highest
    class score of the cell, as in the paper's own code. Names of the parameters: ``backbone.*`` and
    ``head.*``.

    Args:
        head: a ``GFLHead``.
        quality_gamma: power of the quality focal loss.
        distribution_loss_weight: weight of the distribution focal loss.
        **options: of ``AnchorDetector``.
    """

    def __init__(
        self,
        *,
        head: GFLHead,
        quality_gamma: float = 2.0,
        distribution_loss_weight: float = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(head=head, **options)
        self.quality_gamma = quality_gamma
        self.distribution_loss_weight = distribution_loss_weight

    def losses(
        self, predictions: Sequence[Tensor], grid: AnchorGrid, targets: DenseTargets
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box_reg`` and ``loss_dfl``; see the parent."""
        logits, sides = predictions[0], predictions[1][targets.rows]
        anchors, strides = grid.boxes[targets.anchors], grid.strides[targets.anchors]
        boxes = self.decode(sides, anchors, strides)
        score = logits[targets.rows].detach().sigmoid().amax(1)
        num_positive, weight = targets.normalizers(score)

        quality = torch.zeros_like(logits)
        quality[targets.rows, targets.classes] = matched_pairwise_iou(
            Boxes(boxes.detach()), Boxes(targets.boxes)
        )
        focal = quality_focal_loss(logits, quality, self.quality_gamma).sum(1)
        giou = generalized_box_iou_loss(boxes, targets.boxes) * score
        distances = self._distances(targets.boxes, anchors, strides)
        distribution = distribution_focal_loss(sides.unflatten(1, (4, -1)), distances)
        distribution = distribution.mean(1) * score
        return {
            "loss_cls": (focal * targets.inside).sum() / num_positive,
            "loss_box_reg": self.box_loss_weight * giou.sum() / weight,
            "loss_dfl": self.distribution_loss_weight * distribution.sum() / weight,
        }

    def decode(self, boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """Distributions ``(P, 4 * (reg_max + 1))`` to boxes by their means; see the parent."""
        probabilities = boxes.unflatten(1, (4, -1)).softmax(2)
        # No matrix product, which autocast would round.
        numbers = torch.arange(probabilities.shape[2], device=boxes.device)
        distances = (probabilities * numbers).sum(2) * strides[:, None]
        centers = box_centers(anchors)
        return torch.cat((centers - distances[:, :2], centers + distances[:, 2:]), dim=1)

    def _distances(self, boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """``(P, 4)`` from the anchors' centres to the sides, in strides, within the bins."""
        centers = box_centers(anchors)
        distances = torch.cat((centers - boxes[:, :2], boxes[:, 2:] - centers), dim=1)
        return (distances / strides[:, None]).clamp(0, self.head.reg_max - _BELOW_MAX)
