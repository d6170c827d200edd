"""ROI heads of a cascade whose stages have their own boxes per class and their own masks.

The order of operations follows the design of mmdetection's ``CascadeRoIHead`` (Apache-2.0), with
which the released models were trained; the parts are Detectron2's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

Features = Mapping[str, Tensor]
Predictions = tuple[Tensor, Tensor]


class CascadeMaskROIHeads(CascadeROIHeads):
    """Cascade Mask R-CNN: each stage refines the boxes of the one before and predicts masks.

    Reference: Cascade R-CNN, Sec. 4 and 5 (the instance segmentation strategy with a mask branch
    at each stage), arXiv 1906.09756. What Detectron2's class, its parent, does otherwise: boxes
    are predicted for all classes alike; one mask head looks at the last boxes; every stage but the
    first keeps all boxes of the one before, here each draws its own sample from these and the
    ground truth; features get the mean of the stages' gradients, here their sum (the weights of
    the losses belong to the predictors and heads); class probabilities are averaged, here logits.

    Args:
        box_heads: one per stage.
        box_predictors: Detectron2's ``FastRCNNOutputLayers``, one per stage, for boxes per class
            or for all classes alike; the last one's thresholds count in testing.
        proposal_matchers: one per stage.
        mask_heads: Detectron2's, one per stage; none for boxes alone.
        **kwargs: of the parent: ``num_classes``, ``batch_size_per_image``,
            ``positive_fraction``, ``box_in_features``, ``box_pooler``, ``mask_in_features``,
            ``mask_pooler``.

    Raises:
        ValueError: if the stages of boxes, matchers and masks differ in number.
    """

    def __init__(
        self,
        *,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Any],
        mask_heads: Sequence[nn.Module] = (),
        **kwargs: Any,
    ) -> None:
        counts = {len(box_heads), len(box_predictors), len(proposal_matchers)}
        if mask_heads or kwargs.get("mask_in_features"):
            counts.add(len(mask_heads))
        if len(counts) != 1:
            raise ValueError(
                f"stages must have the same number of parts, got {len(box_heads)} box_heads, "
                f"{len(box_predictors)} box_predictors, {len(proposal_matchers)} "
                f"proposal_matchers and {len(mask_heads)} mask_heads"
            )
        super().__init__(
            box_heads=list(box_heads),
            box_predictors=list(box_predictors),
            proposal_matchers=list(proposal_matchers),
            mask_head=nn.ModuleList(mask_heads),
            proposal_append_gt=False,  # sample() does, and remembers which they are
            **kwargs,
        )

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """All stages.

        Args:
            images: not used.
            features: levels ``(B, C, h, w)`` by name.
            proposals: per image, with ``proposal_boxes``.
            targets: in training, per image, with ``gt_boxes``, ``gt_classes`` and, where there
                are objects, ``gt_masks``.

        Returns:
            In training the sample of the last stage and the losses ``loss_cls_stage0``, ...; else
            the detections (``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks``) and
            nothing.

        Raises:
            ValueError: if there are no targets in training.
        """
        del images
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("training needs targets, got None")
        losses: dict[str, Tensor] = {}
        for stage in range(self.num_cascade_stages):
            with get_event_storage().name_scope(f"stage{stage}"):
                sampled = self.sample(proposals, targets, stage)
                predictions = self.run_stage(features, sampled, stage)
                stage_losses = self.box_predictor[stage].losses(predictions, sampled)
                stage_losses |= self.mask_losses(features, sampled, stage)
            losses |= {f"{name}_stage{stage}": loss for name, loss in stage_losses.items()}
            if stage < self.num_cascade_stages - 1:
                proposals = self.refine(predictions, sampled, stage)
        return sampled, losses

    def sample(
        self, proposals: list[Instances], targets: list[Instances], stage: int
    ) -> list[Instances]:
        """Draws the sample that a stage is trained with, from proposals and ground truth.

        Args:
            proposals: per image, with ``proposal_boxes``.
            targets: per image, with ``gt_*``.
            stage: its matcher tells objects from background.

        Returns:
            Per image ``proposal_boxes``, ``gt_classes`` (K for background), the other ``gt_*`` of
            the object that was matched (absent in an image without objects) and ``is_target``,
            True for the ground truth itself.
        """
        candidates = [
            _with_ground_truth(boxes, target)
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        self.proposal_matcher = self.proposal_matchers[stage]
        return self.label_and_sample_proposals(candidates, targets)

    def run_stage(
        self, features: Features, proposals: Sequence[Instances], stage: int
    ) -> Predictions:
        """Class logits ``(R, K + 1)`` and box deltas ``(R, 4K)`` or ``(R, 4)`` of all boxes."""
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [boxes.proposal_boxes for boxes in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    @torch.no_grad()
    def refine(
        self, predictions: Predictions, proposals: Sequence[Instances], stage: int
    ) -> list[Instances]:
        """Applies a stage's boxes, of one class for each proposal, clipped to the image.

        The class is the best one that is no background; in training that of the matched object
        if there is one.

        Args:
            predictions: of ``run_stage``.
            proposals: what they were made for; in training from ``sample``.
            stage: whose predictions they are.

        Returns:
            Per image ``proposal_boxes``; in training without those of the ground truth.
        """
        best = predictions[0][:, :-1].argmax(dim=1).split([len(boxes) for boxes in proposals])
        chosen = []
        for boxes, classes in zip(proposals, best, strict=True):
            if self.training:
                is_background = boxes.gt_classes == self.num_classes
                classes = torch.where(is_background, classes, boxes.gt_classes)
            chosen.append(
                Instances(boxes.image_size, proposal_boxes=boxes.proposal_boxes, gt_classes=classes)
            )
        refined = self.box_predictor[stage].predict_boxes_for_gt_classes(predictions, chosen)
        next_proposals = []
        for boxes, tensor in zip(proposals, refined, strict=True):
            kept = Boxes(tensor[~boxes.is_target] if self.training else tensor)
            kept.clip(boxes.image_size)
            next_proposals.append(Instances(boxes.image_size, proposal_boxes=kept))
        return next_proposals

    def mask_losses(
        self, features: Features, sampled: list[Instances], stage: int
    ) -> dict[str, Tensor]:
        """``loss_mask`` of one stage, on the objects of its sample; empty without mask heads."""
        if not self.mask_on:
            return {}
        objects, _ = select_foreground_proposals(sampled, self.num_classes)
        pooled = self.pool_for_masks(features, [boxes.proposal_boxes for boxes in objects])
        return self.mask_head[stage](pooled, objects)

    def pool_for_masks(self, features: Features, boxes: list[Boxes]) -> Tensor:
        """What the mask heads take, ``(R, C, 14, 14)``."""
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def _forward_box(
        self,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> list[Instances]:
        """Detections: the last stage's boxes, scored by the mean of all stages' logits."""
        logits = []
        for stage in range(self.num_cascade_stages):
            predictions = self.run_stage(features, proposals, stage)
            logits.append(predictions[0])
            if stage < self.num_cascade_stages - 1:
                proposals = self.refine(predictions, proposals, stage)
        mean = torch.stack(logits).mean(dim=0)
        return self.box_predictor[-1].inference((mean, predictions[1]), proposals)[0]

    def _forward_mask(self, features: Features, instances: list[Instances]) -> list[Instances]:
        """Adds ``pred_masks``, the mean of the stages' probabilities."""
        if not self.mask_on:
            return instances
        pooled = self.pool_for_masks(features, [found.pred_boxes for found in instances])
        stages = []
        for head in self.mask_head:
            head(pooled, instances)  # leaves its probabilities in the instances
            stages.append([found.pred_masks for found in instances])
        for found, masks in zip(instances, zip(*stages, strict=True), strict=True):
            found.pred_masks = torch.stack(masks).mean(dim=0)
        return instances


def _with_ground_truth(proposals: Instances, target: Instances) -> Instances:
    boxes = Boxes.cat([proposals.proposal_boxes, target.gt_boxes])
    numbers = torch.arange(len(boxes), device=boxes.device)
    return Instances(
        proposals.image_size, proposal_boxes=boxes, is_target=numbers >= len(proposals)
    )
