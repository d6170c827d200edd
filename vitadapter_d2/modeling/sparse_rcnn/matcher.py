"""Assignment of proposals to ground-truth boxes."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import generalized_box_iou_loss

from vitadapter_d2.layers.assignment import Assignment, assign
from vitadapter_d2.layers.losses import focal_class_cost
from vitadapter_d2.modeling.sparse_rcnn.structures import BoxPrediction, BoxTargets


class HungarianMatcher:
    """Assigns proposals to objects at the lowest total cost, for all stages and images at once.

    Reference: Sparse R-CNN, Sec. 3.1 "Set prediction loss", arXiv 2011.12450.

    Args:
        class_weight: weight of the focal loss that the object's class would cost, less what its
            absence would.
        l1_weight: weight of the L1 distance of the corners, in parts of the image's sides.
        giou_weight: weight of minus the generalised IoU.
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

    @torch.no_grad()
    def __call__(self, prediction: BoxPrediction, targets: BoxTargets) -> Assignment:
        """Matches; one copy to the host for the whole batch.

        Args:
            prediction: L stages.
            targets: N objects of the B images.

        Returns:
            The assignment ``(L, N)``, on the device of the predictions.
        """
        return assign(self.costs(prediction, targets), targets.counts)

    def costs(self, prediction: BoxPrediction, targets: BoxTargets) -> Tensor:
        """Cost of each pair of proposal and object.

        Args:
            prediction: L stages.
            targets: N objects of the B images.

        Returns:
            ``(L, B, Q, T)`` float32, T the largest number of objects of an image; columns beyond
            an image's own number mean nothing.
        """
        labels = pad_sequence(targets.labels.split(targets.counts), batch_first=True)  # (B, T)
        boxes = pad_sequence(targets.boxes.split(targets.counts), batch_first=True)  # (B, T, 4)
        num_stages, batch, num_proposals, _ = prediction.logits.shape
        shape = (num_stages, batch, num_proposals, labels.shape[1])
        logits = prediction.logits.gather(3, labels[:, None].expand(shape))
        predicted = prediction.boxes[:, :, :, None].expand(*shape, 4)
        wanted = boxes[:, None].expand_as(predicted)
        l1 = ((predicted - wanted) / targets.image_whwh[:, None, None]).abs().sum(-1)
        giou = 1 - generalized_box_iou_loss(predicted, wanted)
        return (
            self.class_weight * focal_class_cost(logits, self.alpha, self.gamma)
            + self.l1_weight * l1
            - self.giou_weight * giou
        )
