"""What a detector sees in one view of an image, and how the masks of several views are merged."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Self

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads import ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn

from vitadapter_d2.inference.resize_rules import Size
from vitadapter_d2.modeling.box_predictor import candidates
from vitadapter_d2.modeling.htc import HTCROIHeads

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class Frame:
    """How a view shows the original image.

    Attributes:
        original: size of the image.
        size: of the view.
        is_flipped: mirrored left to right.
    """

    original: Size
    size: Size
    is_flipped: bool

    def from_original(self, boxes: Tensor) -> Tensor:
        """Boxes ``(R, 4)`` of the original image -> of the view."""
        scaled = boxes * self._factors(boxes)
        return mirrored(scaled, self.size[1]) if self.is_flipped else scaled

    def to_original(self, boxes: Tensor) -> Tensor:
        """The inverse."""
        boxes = mirrored(boxes, self.size[1]) if self.is_flipped else boxes
        return boxes / self._factors(boxes)

    def _factors(self, boxes: Tensor) -> Tensor:
        (height, width), (old_height, old_width) = self.size, self.original
        return boxes.new_tensor([width / old_width, height / old_height] * 2)


class View(ABC):
    """What a detector sees in one view.

    Attributes:
        found: ``pred_boxes``, ``scores``, ``pred_classes`` in the original image.
    """

    found: Instances

    @classmethod
    @abstractmethod
    def with_masks(cls, views: Sequence[Self], merged: Instances) -> Instances:
        """Detections merged from all views, with masks if the model gives any.

        Args:
            views: of the same image.
            merged: their detections, in the original image.

        Returns:
            As Detectron2's models give them, ``pred_masks`` ``(R, H, W)`` bool.
        """


@dataclass(frozen=True)
class RegionView(View):
    """Of a model whose heads make masks of any boxes, from these features.

    Attributes:
        found: see :class:`View`.
        frame: of the view.
        heads: of the model.
        features: what they take.
    """

    found: Instances
    frame: Frame
    heads: ROIHeads
    features: Features

    @classmethod
    def with_masks(cls, views: Sequence[Self], merged: Instances) -> Instances:
        """The mean of the masks that the views make of the merged boxes."""
        masks = [view.masks(merged) for view in views]
        shown = [mask for mask in masks if mask is not None]
        if shown:
            merged.pred_masks = torch.stack(shown).mean(dim=0)
        return detector_postprocess(merged, *views[0].frame.original)

    def masks(self, merged: Instances) -> Tensor | None:
        """``(R, 1, h, w)`` in [0, 1] inside of the boxes; None of a model without masks."""
        boxes = Boxes(self.frame.from_original(merged.pred_boxes.tensor))
        given = Instances(self.frame.size, pred_boxes=boxes, pred_classes=merged.pred_classes)
        (seen,) = self.heads.forward_with_given_boxes(self.features, [given])
        if not seen.has("pred_masks"):
            return None
        return seen.pred_masks.flip(-1) if self.frame.is_flipped else seen.pred_masks


@dataclass(frozen=True)
class FinishedView(View):
    """Of a model that gives detections alone, masks perhaps among them.

    Attributes:
        found: see :class:`View`.
        masks: ``(N, H, W)`` bool, of the detections, in the original image.
    """

    found: Instances
    masks: Tensor | None

    @classmethod
    def with_masks(cls, views: Sequence[Self], merged: Instances) -> Instances:
        """The mean of the masks of the detections that overlap, weighted by their scores."""
        if all(view.masks is None for view in views):
            return merged
        scores = merged.scores
        votes = scores.new_zeros(len(merged), *merged.image_size)
        total = scores.new_zeros(len(merged), 1, 1)
        for view in views:
            if view.masks is not None and len(view.found):
                partners, weights = view.partners(merged)
                votes += view.masks[partners] * weights[:, None, None]
                total += weights[:, None, None]
        merged.pred_masks = 2 * votes > total
        return merged

    def partners(self, merged: Instances, min_iou: float = 0.5) -> tuple[Tensor, Tensor]:
        """Which detection of its class a merged box overlaps most.

        Args:
            merged: R detections.
            min_iou: that a partner needs.

        Returns:
            Places in ``found`` ``(R,)`` int64, and scores ``(R,)``, 0 where there is no partner.
        """
        iou = pairwise_iou(merged.pred_boxes, self.found.pred_boxes)
        iou *= merged.pred_classes[:, None] == self.found.pred_classes
        best, places = iou.max(dim=1)
        return places, torch.where(best >= min_iou, self.found.scores[places], 0)


@singledispatch
def look(model: nn.Module, image: Tensor, frame: Frame) -> View:
    """Shows an image to a model.

    Args:
        model: Detectron2's input and output; a ``GeneralizedRCNN`` keeps what its masks need.
        image: ``(3, h, w)`` raw, as the frame says.
        frame: where the image comes from.

    Returns:
        What it sees.
    """
    height, width = frame.original
    (result,) = model([{"image": image, "height": height, "width": width}])
    found = result["instances"]
    boxes = found.pred_boxes.tensor
    masks = found.pred_masks if found.has("pred_masks") else None
    if frame.is_flipped:
        boxes = mirrored(boxes, width)
        masks = None if masks is None else masks.flip(-1)
    return FinishedView(_instances(frame.original, boxes, found), masks)


@look.register
def _look(model: GeneralizedRCNN, image: Tensor, frame: Frame) -> View:
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    return see_regions(model.roi_heads, features, proposals, frame)


@singledispatch
def see_regions(
    heads: ROIHeads, features: Features, proposals: list[Instances], frame: Frame
) -> RegionView:
    """Shows proposals to ROI heads.

    Args:
        heads: of a model.
        features: of the view.
        proposals: of the view, one item.
        frame: of the view.

    Returns:
        What they detect.
    """
    detections, _ = heads(None, features, proposals)
    return _region_view(detections, heads, features, frame)


@see_regions.register
def _see_boxes_alone(
    heads: StandardROIHeads, features: Features, proposals: list[Instances], frame: Frame
) -> RegionView:
    detections = heads._forward_box(features, proposals)
    return _region_view(detections, heads, features, frame)


@see_regions.register
def _see_all_candidates(
    heads: HTCROIHeads, features: Features, proposals: list[Instances], frame: Frame
) -> RegionView:
    features = heads.with_context(features)
    ((boxes, scores),) = heads.score_boxes(features, proposals)
    threshold = heads.box_predictor[-1].test_score_thresh
    found, _ = candidates(frame.to_original(boxes), scores, frame.original, threshold)
    return RegionView(found, frame, heads, features)


def _region_view(
    detections: list[Instances], heads: ROIHeads, features: Features, frame: Frame
) -> RegionView:
    (found,) = detections
    boxes = frame.to_original(found.pred_boxes.tensor)
    return RegionView(_instances(frame.original, boxes, found), frame, heads, features)


def _instances(size: Size, boxes: Tensor, found: Instances) -> Instances:
    return Instances(
        size, pred_boxes=Boxes(boxes), scores=found.scores, pred_classes=found.pred_classes
    )


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes ``(R, 4)`` of an image in its mirror image."""
    left, top, right, bottom = boxes.unbind(dim=1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)
