"""Losses of Sparse R-CNN."""

import torch
from detectron2.utils import comm
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from vitadapter_d2.layers.assignment import Assignment
from vitadapter_d2.layers.distributed import mean_over_ranks
from vitadapter_d2.modeling.sparse_rcnn.matcher import HungarianMatcher
from vitadapter_d2.modeling.sparse_rcnn.structures import BoxPrediction, BoxTargets


class SetCriterion(nn.Module):
    """Matches proposals to objects and compares classes and boxes, in each stage.

    Sums over all proposals (classes) or the matched ones (boxes) are divided by the number of
    matched objects of all ranks, per rank.

    Reference: Sparse R-CNN, Sec. 3.1 "Set prediction loss", arXiv 2011.12450; L1 over corners in
    parts of the image's sides and the normaliser as in mmdetection (Apache-2.0). Departure from it:
    a batch without any object is divided by one object, not by almost zero.

    Args:
        matcher: assigns proposals to objects; its weights are usually the same as here.
        class_weight: weight of the focal loss.
        l1_weight: weight of the L1 loss.
        giou_weight: weight of the generalised IoU loss.
        alpha: of the focal loss.
        gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, prediction: BoxPrediction, targets: BoxTargets) -> dict[str, Tensor]:
        """Weighted losses, in float32 also under autocast.

        Args:
            prediction: L stages.
            targets: ground truth; none in an image, or in the whole batch, is allowed.

        Returns:
            Scalars ``loss_cls``, ``loss_bbox``, ``loss_giou`` of the last stage, and the same with
            ``_0``, ``_1``, ... for the stages before it. Box losses of a batch without objects are
            zero and keep their graph.
        """
        assignment = self.matcher(prediction, targets)
        num_objects = _objects_per_rank(assignment)
        class_losses = self._class_losses(prediction, targets, assignment)
        l1_losses, giou_losses = _box_losses(prediction, targets, assignment)
        num_stages = len(prediction.logits)
        losses = {}
        for stage in range(num_stages):
            suffix = "" if stage == num_stages - 1 else f"_{stage}"
            losses[f"loss_cls{suffix}"] = self.class_weight * class_losses[stage] / num_objects
            losses[f"loss_bbox{suffix}"] = self.l1_weight * l1_losses[stage] / num_objects
            losses[f"loss_giou{suffix}"] = self.giou_weight * giou_losses[stage] / num_objects
        return losses

    def _class_losses(
        self, prediction: BoxPrediction, targets: BoxTargets, assignment: Assignment
    ) -> Tensor:
        """``(L,)`` sums over all proposals and classes."""
        classes = torch.zeros_like(prediction.logits)
        # Accumulated, for objects without a proposal point to one that may be another's.
        index = (*_matched_index(targets, assignment), targets.labels)
        classes.index_put_(index, assignment.matched.to(classes.dtype), accumulate=True)
        losses = sigmoid_focal_loss(prediction.logits, classes, self.alpha, self.gamma)
        return losses.flatten(1).sum(1)


def _box_losses(
    prediction: BoxPrediction, targets: BoxTargets, assignment: Assignment
) -> tuple[Tensor, Tensor]:
    """L1 and generalised IoU ``(L,)``: sums over the matched proposals."""
    boxes = prediction.boxes[_matched_index(targets, assignment)]  # (L, N, 4)
    wanted = targets.boxes.expand_as(boxes)
    l1 = ((boxes - wanted) / targets.image_whwh[targets.image_index]).abs().sum(-1)
    giou = generalized_box_iou_loss(boxes, wanted)
    return (l1 * assignment.matched).sum(1), (giou * assignment.matched).sum(1)


def _matched_index(targets: BoxTargets, assignment: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Stage, image and proposal of every object, broadcast to ``(L, N)``."""
    query_index = assignment.query_index
    stages = torch.arange(len(query_index), device=query_index.device)
    return stages[:, None], targets.image_index, query_index


def _objects_per_rank(assignment: Assignment) -> Tensor:
    """Matched objects of all ranks, at least 1, over the number of ranks."""
    count = assignment.matched[0].sum().float()
    return mean_over_ranks(count).clamp(min=1 / comm.get_world_size())
