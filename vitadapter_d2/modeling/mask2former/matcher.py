"""Assignment of queries to ground-truth masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vitadapter_d2.layers.assignment import Assignment, assign
from vitadapter_d2.layers.point_sample import sample_points
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction, MaskTargets


class HungarianMatcher:
    """Assigns queries to targets at the lowest total cost, for all outputs and images at once.

    The masks are compared at random points, one set for each output and image, which its queries
    and targets share.

    Reference: Mask2Former, Sec. 3.3, arXiv 2112.01527; costs of MaskFormer, arXiv 2107.06278.

    Args:
        class_weight: weight of minus the probability of the target's class.
        mask_weight: weight of the binary cross entropy.
        dice_weight: weight of the Dice loss.
        num_points: points P of each set.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def __call__(self, predictions: Sequence[MaskPrediction], targets: MaskTargets) -> Assignment:
        """Matches; one copy to the host for the whole batch.

        Args:
            predictions: L outputs.
            targets: N ground-truth masks of the B images.

        Returns:
            The assignment, on the device of the predictions.
        """
        device = predictions[0].pred_masks.device
        num_outputs, batch = len(predictions), len(targets.counts)
        points = torch.rand(num_outputs, batch, self.num_points, 2, device=device)
        costs = self.costs(predictions, targets, points)
        return assign(costs, targets.counts)

    def costs(
        self, predictions: Sequence[MaskPrediction], targets: MaskTargets, points: Tensor
    ) -> Tensor:
        """Cost of each pair of query and target, in float32.

        Args:
            predictions: L outputs.
            targets: N ground-truth masks of the B images.
            points: ``(L, B, P, 2)`` in [0, 1].

        Returns:
            ``(L, B, Q, T)``, T the largest number of targets of an image; columns beyond an
            image's own number mean nothing.
        """
        labels = targets.labels.new_zeros(len(targets.counts), max(targets.counts))  # (B, T)
        samples = points.new_zeros(*points.shape[:2], labels.shape[1], points.shape[2])
        split = zip(
            targets.labels.split(targets.counts), targets.masks.split(targets.counts), strict=True
        )
        for image, (image_labels, masks) in enumerate(split):
            count = len(masks)
            if count:  # one call for all outputs: the full-size masks are read in place
                values = sample_points(masks[None], points[:, image].flatten(0, 1)[None])
                samples[:, image, :count] = values.view(count, len(points), -1).transpose(0, 1)
                labels[image, :count] = image_labels
        with torch.autocast(points.device.type, enabled=False):
            return torch.stack(
                [
                    self._output_costs(output, labels, output_samples, output_points)
                    for output, output_samples, output_points in zip(
                        predictions, samples, points, strict=True
                    )
                ]
            )

    def _output_costs(
        self, output: MaskPrediction, labels: Tensor, samples: Tensor, points: Tensor
    ) -> Tensor:
        """``(B, Q, T)`` from labels ``(B, T)``, samples ``(B, T, P)``, points ``(B, P, 2)``."""
        num_queries, num_points = output.pred_masks.shape[1], points.shape[1]
        scores = output.pred_logits.float().softmax(-1)
        class_cost = -scores.gather(2, labels[:, None].expand(-1, num_queries, -1))
        logits = sample_points(output.pred_masks.float(), points)  # (B, Q, P)
        columns = samples.transpose(1, 2)  # (B, P, T)
        # BCE(x, t) = softplus(x) - x t, so that the sum over points is one matrix product.
        mask_cost = (F.softplus(logits).sum(-1, keepdim=True) - logits @ columns) / num_points
        probabilities = logits.sigmoid()
        area = probabilities.sum(-1, keepdim=True) + samples.sum(-1)[:, None]  # (B, Q, T)
        dice_cost = 1 - (2 * (probabilities @ columns) + 1) / (area + 1)
        return (
            self.class_weight * class_cost
            + self.mask_weight * mask_cost
            + self.dice_weight * dice_cost
        )
