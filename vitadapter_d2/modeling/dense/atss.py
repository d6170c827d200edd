"""ATSS."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from vitadapter_d2.modeling.dense.anchors import AnchorGrid, DenseTargets
from vitadapter_d2.modeling.dense.assigner import box_centers
from vitadapter_d2.modeling.dense.detector import AnchorDetector
from vitadapter_d2.modeling.dense.head import DenseHead, predictor


class ATSSHead(DenseHead):
    """Classes, boxes as differences from the anchors, and how central the anchor is.

    Reference: ATSS, Sec. 3, arXiv 1912.02424. Keys: those of ``DenseHead`` and ``centerness``.

    Args:
        in_channels: width of the levels.
        num_classes: K.
        channels: width of the towers.
        **options: of ``DenseHead``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int = 256, **options: Any
    ) -> None:
        super().__init__(in_channels, num_classes, box_dim=4, channels=channels, **options)
        self.centerness = predictor(channels, 1)

    def from_box_feature(self, feature: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Differences ``(B, 4, H, W)`` and logits of centerness ``(B, 1, H, W)``."""
        return *super().from_box_feature(feature, scale), self.centerness(feature)


class ATSS(AnchorDetector):
    """Focal loss, GIoU loss weighted by centerness, and centerness itself.

    Reference: ATSS, arXiv 1912.02424, with the losses of FCOS, arXiv 1904.01355. Names of the
    parameters: ``backbone.*`` and ``head.*``.

    Args:
        box_weights: of the differences, as in Detectron2's ``Box2BoxTransform``.
        focal_alpha: weight of the positives in the focal loss, in [0, 1].
        focal_gamma: its power.
        **options: of ``AnchorDetector``.
    """

    def __init__(
        self,
        *,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.box_transform = Box2BoxTransform(tuple(box_weights))
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def losses(
        self, predictions: Sequence[Tensor], grid: AnchorGrid, targets: DenseTargets
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box_reg`` and ``loss_centerness``; see the parent."""
        logits, deltas, quality = predictions
        anchors = grid.boxes[targets.anchors]
        centerness = centerness_of(box_centers(anchors), targets.boxes)
        num_positive, weight = targets.normalizers(centerness)

        classes = torch.zeros_like(logits)
        classes[targets.rows, targets.classes] = 1
        focal = sigmoid_focal_loss(logits, classes, self.focal_alpha, self.focal_gamma).sum(1)
        boxes = self.decode(deltas[targets.rows], anchors, grid.strides[targets.anchors])
        giou = generalized_box_iou_loss(boxes, targets.boxes) * centerness
        quality_loss = F.binary_cross_entropy_with_logits(
            quality[targets.rows, 0], centerness, reduction="sum"
        )
        return {
            "loss_cls": (focal * targets.inside).sum() / num_positive,
            "loss_box_reg": self.box_loss_weight * giou.sum() / weight,
            "loss_centerness": quality_loss / num_positive,
        }

    def decode(self, boxes: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        """Differences ``(P, 4)`` applied to the anchors; see the parent."""
        return self.box_transform.apply_deltas(boxes, anchors)


def centerness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """How central points lie in their boxes.

    Reference: FCOS, Eq. 3, arXiv 1904.01355.

    Args:
        points: ``(P, 2)`` x y, strictly inside.
        boxes: ``(P, 4)`` x0 y0 x1 y1.

    Returns:
        ``(P,)`` in (0, 1], 1 in the middle.
    """
    before, after = points - boxes[:, :2], boxes[:, 2:] - points
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(1).sqrt()
