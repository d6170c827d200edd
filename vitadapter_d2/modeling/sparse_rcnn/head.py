"""The stages of Sparse R-CNN, each of which refines all proposals.

Names of modules are those of PeizeSun/SparseR-CNN (MIT licence), the paper's own code; numbers
follow mmdetection (Apache-2.0), with which the released weights were trained.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch import Tensor, nn

from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.sparse_rcnn.structures import BoxPrediction

PRIOR_PROBABILITY = 0.01  # of every class, before training


class DynamicConv(nn.Module):
    """Filters the region of each proposal by two 1x1 convolutions made from its own feature.

    Reference: Sparse R-CNN, Sec. 3.1 "Dynamic instance interactive head" and Alg. 1,
    arXiv 2011.12450.

    Args:
        embed_dim: width C of proposal and region features.
        dynamic_dim: width D between the two convolutions.
        output_size: rows and columns of a region.
    """

    def __init__(self, embed_dim: int, dynamic_dim: int, output_size: tuple[int, int]) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.dynamic_dim = dynamic_dim
        self.dynamic_layer = nn.Linear(embed_dim, 2 * embed_dim * dynamic_dim)
        self.norm1 = nn.LayerNorm(dynamic_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.out_layer = nn.Linear(embed_dim * math.prod(output_size), embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(self, proposal_features: Tensor, roi_features: Tensor) -> Tensor:
        """Object features.

        Args:
            proposal_features: ``(R, C)`` float.
            roi_features: ``(R, C, h, w)`` float, the regions of the R proposals.

        Returns:
            ``(R, C)``, non-negative.
        """
        inner, outer = self.dynamic_layer(proposal_features).chunk(2, dim=1)
        inner = inner.unflatten(1, (self.embed_dim, self.dynamic_dim))
        outer = outer.unflatten(1, (self.dynamic_dim, self.embed_dim))
        x = roi_features.flatten(2).transpose(1, 2)  # (R, h w, C)
        x = F.relu(self.norm1(x @ inner))
        x = F.relu(self.norm2(x @ outer))
        return F.relu(self.norm3(self.out_layer(x.flatten(1))))


class DynamicStage(nn.Module):
    """Attention among proposals, interaction of each with its region, then class and box.

    Reference: Sparse R-CNN, Sec. 3.1, arXiv 2011.12450.

    Args:
        num_classes: classes K.
        embed_dim: width C of proposal and region features.
        dynamic_dim: width between the dynamic convolutions.
        num_heads: heads of the attention.
        feedforward_dim: width of the feed-forward network.
        num_class_layers: layers before the class logits.
        num_box_layers: layers before the box deltas.
        output_size: rows and columns of a region.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        dynamic_dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_class_layers: int,
        num_box_layers: int,
        output_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.inst_interact = DynamicConv(embed_dim, dynamic_dim, output_size)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.cls_module = _layers(embed_dim, num_class_layers)
        self.class_logits = nn.Linear(embed_dim, num_classes)
        self.reg_module = _layers(embed_dim, num_box_layers)
        self.bboxes_delta = nn.Linear(embed_dim, 4)
        self._init_weights()

    def _init_weights(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(
            self.class_logits.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        )

    def forward(
        self, proposal_features: Tensor, roi_features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions, and the features for the next stage.

        Args:
            proposal_features: ``(B, Q, C)`` float.
            roi_features: ``(B * Q, C, h, w)`` float, the regions of the proposals.

        Returns:
            Class logits ``(B, Q, K)``, box deltas ``(B, Q, 4)``, object features ``(B, Q, C)``.
        """
        x = proposal_features
        x = self.norm1(x + self.self_attn(x, x, x, need_weights=False)[0])
        x = self.norm2(x + self.inst_interact(x.flatten(0, 1), roi_features).view_as(x))
        x = self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        # A few small products, but each stage adds its box to the errors of those before it.
        with torch.autocast(x.device.type, enabled=False):
            logits = self.class_logits(self.cls_module(x))
            return logits, self.bboxes_delta(self.reg_module(x)), x


class DynamicHead(nn.Module):
    """Refines boxes and features of the proposals stage by stage, each with its own weights.

    Reference: Sparse R-CNN, Sec. 3.1, arXiv 2011.12450. Boxes are detached between the stages; of
    the proposals that enter, the first stage's output still carries a gradient.

    Args:
        box_pooler: cuts the regions out of the features; its ``sampling_ratio`` must be positive,
            for the boxes may become far larger than the image.
        box2box_transform: what the deltas mean. They change a side by its ``scale_clamp`` at most,
            in both directions.
        num_classes: classes K.
        num_stages: stages L.
        embed_dim: width C of the features.
        dynamic_dim: width between the dynamic convolutions.
        num_heads: heads of the attention.
        feedforward_dim: width of the feed-forward network.
        num_class_layers: layers before the class logits.
        num_box_layers: layers before the box deltas.

    Raises:
        ValueError: for fewer than one stage, or a pooler that samples adaptively.
    """

    def __init__(
        self,
        *,
        box_pooler: PreciseROIPooler,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        num_stages: int = 6,
        embed_dim: int = 256,
        dynamic_dim: int = 64,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_class_layers: int = 1,
        num_box_layers: int = 3,
    ) -> None:
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, got {num_stages}")
        ratios = [getattr(pooler, "sampling_ratio", 0) for pooler in box_pooler.level_poolers]
        if min(ratios) < 1:
            raise ValueError(f"the box_pooler's sampling_ratio must be at least 1, got {ratios}")
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.box_pooler = box_pooler
        self.box2box_transform = box2box_transform
        self.head_series = nn.ModuleList(
            DynamicStage(
                num_classes=num_classes,
                embed_dim=embed_dim,
                dynamic_dim=dynamic_dim,
                num_heads=num_heads,
                feedforward_dim=feedforward_dim,
                num_class_layers=num_class_layers,
                num_box_layers=num_box_layers,
                output_size=box_pooler.output_size,
            )
            for _ in range(num_stages)
        )

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, proposal_features: Tensor
    ) -> BoxPrediction:
        """Predictions of all stages.

        Args:
            features: levels of the pyramid, ``(B, C, h, w)`` float, those of ``box_pooler``.
            boxes: ``(B, Q, 4)`` float32, xyxy in pixels.
            proposal_features: ``(B, Q, C)`` float.

        Returns:
            Logits and boxes, the last stage last.
        """
        logits, refined = [], []
        for stage in self.head_series:
            regions = self.box_pooler(list(features), [Boxes(image) for image in boxes.detach()])
            stage_logits, deltas, proposal_features = stage(proposal_features, regions)
            logits.append(stage_logits.float())
            refined.append(self.refine(boxes, deltas))
            boxes = refined[-1].detach()
        return BoxPrediction(torch.stack(logits), torch.stack(refined))

    def refine(self, boxes: Tensor, deltas: Tensor) -> Tensor:
        """Boxes ``(B, Q, 4)`` xyxy, moved and scaled by deltas of the same shape; float32."""
        transform, deltas = self.box2box_transform, deltas.float()
        # Detectron2 limits growth alone, mmdetection shrinking too.
        sides = [
            side.clamp(min=-transform.scale_clamp * weight)
            for side, weight in zip(
                deltas[..., 2:].split(1, -1), transform.weights[2:], strict=True
            )
        ]
        deltas = torch.cat([deltas[..., :2], *sides], dim=-1)
        return transform.apply_deltas(deltas.flatten(0, 1), boxes.flatten(0, 1)).view_as(boxes)


def _layers(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU()]
    return nn.Sequential(*layers)
