"""Losses of Mask2Former."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitadapter_d2.layers.assignment import Assignment
from vitadapter_d2.layers.distributed import mean_over_ranks
from vitadapter_d2.layers.losses import dice_loss, mask_bce_loss
from vitadapter_d2.layers.point_sample import sample_points, uncertain_points
from vitadapter_d2.modeling.mask2former.matcher import HungarianMatcher
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction, MaskTargets


class SetCriterion(nn.Module):
    """Matches queries to targets and compares classes and, at few points, masks.

    Reference: Mask2Former, Sec. 3.2.3 and 3.3, arXiv 2112.01527. All outputs are handled in one
    pass; the result is that of a loop over them. The official ViT-Adapter divides mask losses by
    the number of matched queries rather than of targets: the same unless an image has more targets
    than there are queries.

    Args:
        num_classes: classes K, without "no object".
        matcher: assigns queries to targets; its weights are usually the same as here.
        class_weight: weight of the cross entropy.
        mask_weight: weight of the binary cross entropy of the masks.
        dice_weight: weight of their Dice loss.
        no_object_weight: weight of "no object" among the classes.
        num_points: points P of each matched mask.
        oversample_ratio: candidates over P from which the points are chosen, at least 1.
        importance_ratio: share of P that is chosen for its uncertainty, in [0, 1].
    """

    empty_weight: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        if oversample_ratio < 1:
            raise ValueError(f"oversample_ratio must be at least 1, got {oversample_ratio}")
        if not 0 <= importance_ratio <= 1:
            raise ValueError(f"importance_ratio must be in [0, 1], got {importance_ratio}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(
        self, predictions: Sequence[MaskPrediction], targets: MaskTargets
    ) -> dict[str, Tensor]:
        """Weighted losses, in float32 also under autocast.

        Args:
            predictions: L outputs, the final one last.
            targets: ground truth; none in an image, or in the whole batch, is allowed.

        Returns:
            Scalars ``loss_ce``, ``loss_mask``, ``loss_dice`` of the final output, and the same with
            ``_0``, ``_1``, ... for the outputs before it. Mask losses of a batch without targets
            are zero and keep their graph.
        """
        assignment = self.matcher(predictions, targets)
        image_index = torch.arange(len(targets.counts)).repeat_interleave(
            torch.tensor(targets.counts)
        )  # on the host, where the counts are: no synchronisation
        image_index = image_index.to(targets.labels.device)
        class_losses = self._class_losses(predictions, targets, assignment, image_index)
        mask_losses, dice_losses = self._mask_losses(predictions, targets, assignment, image_index)
        losses = {}
        suffixes = [*(f"_{index}" for index in range(len(predictions) - 1)), ""]
        for index, suffix in enumerate(suffixes):
            losses[f"loss_ce{suffix}"] = self.class_weight * class_losses[index]
            losses[f"loss_mask{suffix}"] = self.mask_weight * mask_losses[index]
            losses[f"loss_dice{suffix}"] = self.dice_weight * dice_losses[index]
        return losses

    def _class_losses(
        self,
        predictions: Sequence[MaskPrediction],
        targets: MaskTargets,
        assignment: Assignment,
        image_index: Tensor,
    ) -> Tensor:
        """``(L,)`` weighted means over all queries; unmatched ones should say "no object"."""
        logits = torch.stack([output.pred_logits for output in predictions]).float()
        num_outputs, batch, num_queries, _ = logits.shape
        # One slot more for each image takes the targets that have no query.
        classes = torch.full(
            (num_outputs, batch * (num_queries + 1)), self.num_classes, device=logits.device
        )
        slots = assignment.query_index.where(assignment.matched, num_queries)
        slots = slots + image_index * (num_queries + 1)
        classes.scatter_(1, slots, targets.labels.expand(num_outputs, -1))
        classes = classes.unflatten(1, (batch, -1))[..., :num_queries].flatten()
        weight = self.empty_weight.to(logits.dtype)
        losses = F.cross_entropy(logits.flatten(0, 2), classes, weight, reduction="none")
        weights = weight[classes].view(num_outputs, -1)
        return losses.view(num_outputs, -1).sum(1) / weights.sum(1)

    def _mask_losses(
        self,
        predictions: Sequence[MaskPrediction],
        targets: MaskTargets,
        assignment: Assignment,
        image_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """BCE and Dice ``(L,)``: sums over matched masks, over the number of targets."""
        shape = (len(predictions), len(targets.masks), self.num_points)  # (L, N, P)
        num_queries = predictions[0].pred_masks.shape[1]
        rows = assignment.query_index + image_index * num_queries
        logits = torch.cat(
            [
                output.pred_masks.flatten(0, 1).index_select(0, output_rows)
                for output, output_rows in zip(predictions, rows, strict=True)
            ]
        ).float()  # (L * N, h, w)
        points = uncertain_points(
            logits, self.num_points, self.oversample_ratio, self.importance_ratio
        )
        sampled = sample_points(logits[:, None], points).view(shape)
        # All points of one target side by side: its full-size mask is read once, never copied.
        by_target = points.view(*shape, 2).transpose(0, 1).flatten(1, 2)  # (N, L * P, 2)
        wanted = sample_points(targets.masks[:, None], by_target)
        wanted = wanted.view(shape[1], shape[0], shape[2]).transpose(0, 1)
        weights = assignment.matched / _num_masks_per_rank(targets)
        mask_losses = (mask_bce_loss(sampled, wanted) * weights).sum(1)
        return mask_losses, (dice_loss(sampled, wanted) * weights).sum(1)


def _num_masks_per_rank(targets: MaskTargets) -> Tensor:
    """Targets of all ranks over the number of ranks, at least 1."""
    count = torch.full((), float(len(targets.masks)), device=targets.masks.device)
    return mean_over_ranks(count).clamp(min=1)
