"""Assignment of queries to ground-truth boxes."""

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from vitadapter_d2.layers.assignment import Assignment, assign
from vitadapter_d2.layers.losses import focal_class_cost
from vitadapter_d2.modeling.dino.structures import BoxPrediction, BoxTargets


class HungarianMatcher:
    """Assigns queries to targets at the lowest total cost, for all outputs and images at once.

    Reference: Deformable DETR, Sec. 3 and Appendix A.3, arXiv 2010.04159: the cost of a class is
    its focal loss as the target's less that as background.

    Args:
        class_weight: weight of the class.
        l1_weight: weight of the L1 distance of the boxes.
        giou_weight: weight of minus their generalised IoU.
        alpha: of the focal loss.
        gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, predictions: BoxPrediction, targets: BoxTargets) -> Assignment:
        """Matches; one copy to the host for the whole batch.

        Args:
            predictions: L outputs.
            targets: N boxes of the B images.

        Returns:
            The assignment, on the device of the predictions.
        """
        return assign(self.costs(predictions, targets), targets.counts)

    @torch.no_grad()
    def costs(self, predictions: BoxPrediction, targets: BoxTargets) -> Tensor:
        """Cost of each pair of query and target, in float32.

        Args:
            predictions: L outputs.
            targets: N boxes of the B images.

        Returns:
            ``(L, B, Q, T)``, T the largest number of targets of an image; columns beyond an
            image's own number mean nothing.
        """
        with torch.autocast(predictions.boxes.device.type, enabled=False):
            class_costs = focal_class_cost(predictions.logits.float(), self.alpha, self.gamma)
            boxes = predictions.boxes.float()
            num_outputs, batch, num_queries, _ = boxes.shape
            costs = boxes.new_zeros(num_outputs, batch, num_queries, max(targets.counts))
            split = zip(
                targets.labels.split(targets.counts),
                targets.boxes.split(targets.counts),
                strict=True,
            )
            for image, (labels, wanted) in enumerate(split):
                costs[:, image, :, : len(labels)] = (
                    self.class_weight * class_costs[:, image, :, labels]
                    + self.l1_weight * torch.cdist(boxes[:, image], wanted, p=1)
                    - self.giou_weight
                    * generalized_box_iou(
                        box_convert(boxes[:, image].flatten(0, 1), "cxcywh", "xyxy"),
                        box_convert(wanted, "cxcywh", "xyxy"),
                    ).unflatten(0, (num_outputs, num_queries))
                )
            return costs
