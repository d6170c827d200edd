"""ROI heads of Hybrid Task Cascade."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from vitadapter_d2.modeling.cascade.roi_heads import CascadeMaskROIHeads, Features, Predictions
from vitadapter_d2.modeling.htc.semantic_head import FusedSemanticHead

# Among the levels: the semantic branch's map, which all region features get a part of.
_CONTEXT = "semantic_context"


class HTCROIHeads(CascadeMaskROIHeads):
    """Interleaved cascade of boxes and masks with a semantic branch.

    What it does otherwise than its parent: the mask head of a stage is trained on the boxes that
    this stage has refined, sampled anew, and builds on the features of the mask heads before; the
    context of the semantic branch is added to all region features.

    Reference: Hybrid Task Cascade, Sec. 3, arXiv 1901.07518.

    Args:
        semantic_in_features: levels that the semantic branch fuses, finest first.
        semantic_head: the semantic branch.
        semantic_pooler: for its context; regions of fewer cells get averages.
        **cascade: of the parent; its mask heads are ``HTCMaskHead``, of which all but the first
            take features.
    """

    def __init__(
        self,
        *,
        semantic_in_features: Sequence[str],
        semantic_head: FusedSemanticHead,
        semantic_pooler: ROIPooler,
        **cascade: Any,
    ) -> None:
        super().__init__(**cascade)
        self.semantic_in_features = list(semantic_in_features)
        self.semantic_head = semantic_head
        self.semantic_pooler = semantic_pooler

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        labels: Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """All stages.

        Args:
            images: not used.
            features: levels ``(B, C, h, w)`` by name.
            proposals: per image, with ``proposal_boxes``.
            targets: in training, see the parent.
            labels: in training, ``(B, H, W)`` int64 of the padded images.

        Returns:
            What the parent does, in training with ``loss_semantic``.

        Raises:
            ValueError: if there are no targets or labels in training.
        """
        if not self.training:
            return super().forward(images, self.with_context(features), proposals)
        if targets is None or labels is None:
            raise ValueError("training needs targets and labels, got None")
        semantic = self.semantic_head([features[name] for name in self.semantic_in_features])
        features = {**features, _CONTEXT: semantic.context}
        losses = {"loss_semantic": self.semantic_head.loss(semantic.logits, labels)}
        for stage in range(self.num_cascade_stages):
            with get_event_storage().name_scope(f"stage{stage}"):
                sampled = self.sample(proposals, targets, stage)
                predictions = self.run_stage(features, sampled, stage)
                stage_losses = self.box_predictor[stage].losses(predictions, sampled)
                proposals = self.refine(predictions, sampled, stage)
                sampled = self.sample(proposals, targets, stage)
                stage_losses |= self.mask_losses(features, sampled, stage)
            losses |= {f"{name}_stage{stage}": loss for name, loss in stage_losses.items()}
        return sampled, losses

    def forward_with_given_boxes(
        self, features: Features, instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` to instances with ``pred_boxes`` and ``pred_classes``."""
        return super().forward_with_given_boxes(self.with_context(features), instances)

    def with_context(self, features: Features) -> Features:
        """The levels and the semantic branch's map, which the other methods need."""
        if _CONTEXT in features:
            return features
        semantic = self.semantic_head([features[name] for name in self.semantic_in_features])
        return {**features, _CONTEXT: semantic.context}

    def run_stage(
        self, features: Features, proposals: Sequence[Instances], stage: int
    ) -> Predictions:
        """See the parent; float32."""
        levels = [features[name] for name in self.box_in_features]
        boxes = [image.proposal_boxes for image in proposals]
        region = self._add_context(self.box_pooler(levels, boxes), features, boxes)
        logits, deltas = self.box_predictor[stage](self.box_head[stage](region))
        return logits.float(), deltas.float()

    def pool_for_masks(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """See the parent."""
        return self._add_context(super().pool_for_masks(features, boxes), features, boxes)

    def mask_losses(
        self, features: Features, sampled: list[Instances], stage: int
    ) -> dict[str, Tensor]:
        """``loss_mask`` of one stage, whose gradient reaches the mask heads before."""
        objects, _ = select_foreground_proposals(sampled, self.num_classes)
        region = self.pool_for_masks(features, [image.proposal_boxes for image in objects])
        passed = None
        for head in self.mask_head[: stage + 1]:
            passed = head.features(region, passed)
        return {"loss_mask": head.loss_weight * mask_rcnn_loss(head.logits(passed), objects)}

    def score_boxes(
        self, features: Features, proposals: list[Instances]
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes before non-maximum suppression.

        Args:
            features: from ``with_context``.
            proposals: per image, with ``proposal_boxes``.

        Returns:
            Per image the last stage's boxes ``(R, 4)``, inside of the image, and class
            probabilities ``(R, K + 1)`` from the mean of all stages' logits, the last one of
            background.
        """
        logits = []
        for stage in range(self.num_cascade_stages):
            predictions = self.run_stage(features, proposals, stage)
            logits.append(predictions[0])
            proposals = self.refine(predictions, proposals, stage)
        probabilities = torch.stack(logits).mean(dim=0).softmax(dim=1)
        boxes = [image.proposal_boxes.tensor for image in proposals]
        return list(zip(boxes, probabilities.split([len(b) for b in boxes]), strict=True))

    def stage_masks(self, features: Features, boxes: list[Boxes], classes: Tensor) -> Tensor:
        """Masks of every stage.

        Args:
            features: from ``with_context``.
            boxes: R of them in all images.
            classes: ``(R,)`` int64.

        Returns:
            ``(S, R, 1, h, w)`` float in [0, 1], of S stages.
        """
        region = self.pool_for_masks(features, boxes)
        rows = torch.arange(len(classes), device=classes.device)
        masks, passed = [], None
        for head in self.mask_head:
            passed = head.features(region, passed)
            masks.append(head.logits(passed)[rows, classes, None].sigmoid())
        return torch.stack(masks)

    def _forward_mask(self, features: Features, instances: list[Instances]) -> list[Instances]:
        boxes = [found.pred_boxes for found in instances]
        classes = torch.cat([found.pred_classes for found in instances])
        masks = self.stage_masks(features, boxes, classes).mean(dim=0)
        for found, own in zip(instances, masks.split([len(b) for b in boxes]), strict=True):
            found.pred_masks = own
        return instances

    def _add_context(self, region: Tensor, features: Features, boxes: list[Boxes]) -> Tensor:
        context = self.semantic_pooler([features[_CONTEXT]], boxes)
        return region + F.adaptive_avg_pool2d(context, (region.shape[2], region.shape[3]))
