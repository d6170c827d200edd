"""Losses of DINO.

The design is that of IDEA-Research/DINO (Apache-2.0) and its paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss

from vitadapter_d2.layers.distributed import mean_over_ranks
from vitadapter_d2.modeling.dino.denoising import DenoisingQueries
from vitadapter_d2.modeling.dino.matcher import HungarianMatcher
from vitadapter_d2.modeling.dino.structures import BoxPrediction, BoxTargets

KINDS = ("loss_ce", "loss_bbox", "loss_giou")


class SetCriterion(nn.Module):
    """Classes and boxes of matched queries, of all layers, and those of the denoising queries.

    Reference: DINO, Sec. 3.3 and Appendix C, arXiv 2203.03605; losses of Deformable DETR,
    arXiv 2010.04159. Sums over queries are divided by the number of targets.

    Args:
        num_classes: classes K.
        matcher: assigns queries to targets; its weights need not be those here.
        class_weight: weight of the focal loss.
        l1_weight: weight of the L1 distance of the boxes.
        giou_weight: weight of one minus their generalised IoU.
        alpha: of the focal loss.
        gamma: of the focal loss.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weights = (class_weight, l1_weight, giou_weight)
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self,
        encoder: BoxPrediction,
        decoder: BoxPrediction,
        denoised: BoxPrediction,
        noise: DenoisingQueries,
        targets: BoxTargets,
    ) -> dict[str, Tensor]:
        """Weighted losses, in float32 also under autocast.

        Args:
            encoder: of the selected cells, one output.
            decoder: of the Q queries, one output for each layer.
            denoised: of the D denoising queries, one output for each layer.
            noise: the denoising queries; D may be 0.
            targets: ground truth; none in an image, or in the whole batch, is allowed.

        Returns:
            Scalars ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the final layer, the same with
            ``_0``, ``_1``, ... for the layers before it and ``_enc`` for the encoder; those of the
            denoising with ``_dn`` and ``_dn_0``, ... Without targets the box losses are zero and
            keep their graph.
        """
        matching = BoxPrediction(
            torch.cat((decoder.logits, encoder.logits)), torch.cat((decoder.boxes, encoder.boxes))
        )
        count = _boxes_per_rank(targets)
        layers = [*(f"_{index}" for index in range(len(decoder.logits) - 1)), ""]
        return {
            **self._losses(matching, self._matched(matching, targets), count, [*layers, "_enc"]),
            **self._losses(
                denoised,
                _denoised(denoised, noise, targets),
                count * noise.num_groups,
                [f"_dn{layer}" for layer in layers],
            ),
        }

    def _matched(self, prediction: BoxPrediction, targets: BoxTargets) -> "_Supervision":
        assignment = self.matcher(prediction, targets)
        num_outputs, batch, num_queries, _ = prediction.logits.shape
        rows = assignment.query_index + targets.image_index * num_queries
        is_counted = torch.ones(batch, num_queries, dtype=torch.bool, device=rows.device)
        return _Supervision(rows, assignment.matched, targets.labels, targets.boxes, is_counted)

    def _losses(
        self,
        prediction: BoxPrediction,
        wanted: "_Supervision",
        count: Tensor,
        suffixes: Sequence[str],
    ) -> dict[str, Tensor]:
        logits, boxes = (x.float().flatten(1, 2) for x in (prediction.logits, prediction.boxes))
        classes = torch.zeros_like(logits)  # (L, B * Q, K)
        outputs = torch.arange(len(logits), device=logits.device)[:, None]
        is_pair = wanted.is_pair.to(logits.dtype)
        # Adds, so that targets without a query, which have row 0, overwrite nothing.
        classes.index_put_((outputs, wanted.rows, wanted.labels), is_pair, accumulate=True)
        focal = sigmoid_focal_loss(logits, classes, self.alpha, self.gamma)
        class_loss = (focal.sum(-1) * wanted.is_counted.flatten()).sum(-1)  # (L,)
        found = boxes.take_along_dim(wanted.rows[..., None], dim=1)  # (L, M, 4)
        truth = wanted.boxes.expand_as(found)
        l1 = (F.l1_loss(found, truth, reduction="none").sum(-1) * is_pair).sum(-1)
        corners = (box_convert(x, "cxcywh", "xyxy") for x in (found, truth))
        giou = (generalized_box_iou_loss(*corners) * is_pair).sum(-1)
        return {
            kind + suffix: weight * loss / count
            for kind, weight, losses in zip(
                KINDS, self.weights, (class_loss, l1, giou), strict=True
            )
            for suffix, loss in zip(suffixes, losses, strict=True)
        }


@dataclass(frozen=True)
class _Supervision:
    """What L outputs should say.

    Attributes:
        rows: ``(L, M)`` int64, the query of each of M pairs of query and target, in the batch.
        is_pair: ``(L, M)`` bool, False where a target has no query.
        labels: ``(M,)`` int64.
        boxes: ``(M, 4)``.
        is_counted: ``(B, Q)`` bool, False for queries whose classes are not supervised.
    """

    rows: Tensor
    is_pair: Tensor
    labels: Tensor
    boxes: Tensor
    is_counted: Tensor


def _denoised(
    prediction: BoxPrediction, noise: DenoisingQueries, targets: BoxTargets
) -> _Supervision:
    num_outputs, _, num_queries, _ = prediction.logits.shape
    rows = (noise.target_queries(targets) + targets.image_index * num_queries).flatten()
    rows = rows.expand(num_outputs, -1)
    return _Supervision(
        rows,
        torch.ones_like(rows, dtype=torch.bool),
        targets.labels.repeat(noise.num_groups),
        targets.boxes.repeat(noise.num_groups, 1),
        noise.is_real,
    )


def _boxes_per_rank(targets: BoxTargets) -> Tensor:
    """Targets of all ranks over the number of ranks, at least 1."""
    count = torch.full((), float(len(targets.labels)), device=targets.labels.device)
    return mean_over_ranks(count).clamp(min=1)
