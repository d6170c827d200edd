"""Hybrid Task Cascade at one size of the image or at many, mirrored too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vitadapter_d2.inference.resize_rules import KeepRatio, Size, resize_image
from vitadapter_d2.modeling.cascade.roi_heads import Features
from vitadapter_d2.modeling.htc import HybridTaskCascade, detect

MODES = ("whole", "ms")
# Areas of boxes in pixels of the original image: lowest, not included, and highest.
AREAS = {"s": (-1.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, float("inf"))}


@dataclass(frozen=True)
class BoxView:
    """A size to look at an image in, and which boxes to take from there.

    Attributes:
        scale: limits of the two sides of the resized image, in either order.
        areas: names of ``AREAS``, such as ``"ml"``.
    """

    scale: Sequence[int]
    areas: str = "sml"

    def __post_init__(self) -> None:
        if not self.areas or set(self.areas) - AREAS.keys():
            raise ValueError(f"areas must be some of {''.join(AREAS)}, got {self.areas!r}")


@dataclass(frozen=True)
class _Frame:
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
        return _mirrored(scaled, self.size[1]) if self.is_flipped else scaled

    def to_original(self, boxes: Tensor) -> Tensor:
        """The inverse."""
        boxes = _mirrored(boxes, self.size[1]) if self.is_flipped else boxes
        return boxes / self._factors(boxes)

    def _factors(self, boxes: Tensor) -> Tensor:
        (height, width), (old_height, old_width) = self.size, self.original
        return boxes.new_tensor([width / old_width, height / old_height] * 2)


@dataclass(frozen=True)
class _Seen:
    """What the model sees in a view.

    Attributes:
        frame: of the view.
        features: the levels and the semantic branch's map.
        boxes: ``(R, 4)`` in the original image.
        scores: ``(R, K + 1)``.
    """

    frame: _Frame
    features: Features
    boxes: Tensor
    scores: Tensor


class HTCTester(nn.Module):
    """Detectron2's input and output around a model, tested as ViT-Adapter's HTC++ is.

    In the mode "ms" each view, mirrored too, gives boxes of some sizes; Soft-NMS of all of them
    follows, and the masks of all views and stages are averaged. The maps of all views are held
    until the masks are made. Reference: the test settings of the released configurations,
    arXiv 2205.08534, Sec. 4.1.

    Inputs are images of the original size: the tester owns the resizing, so the mapper must not
    resize.

    Args:
        model: the detector.
        mode: "whole" looks at one size, "ms" at all of ``ms_views``.
        scale: limits of the sides in the mode "whole".
        ms_views: in the mode "ms".
        ms_max_boxes: detections per image in the mode "ms".

    Raises:
        ValueError: the mode is unknown, or has no views.
    """

    def __init__(
        self,
        model: HybridTaskCascade,
        mode: str = "whole",
        *,
        scale: Sequence[int],
        ms_views: Sequence[BoxView] = (),
        ms_max_boxes: int = 1000,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if mode == "ms" and not ms_views:
            raise ValueError("the mode 'ms' needs ms_views, got none")
        self.model = model
        self.mode = mode
        self.rule = KeepRatio(scale)
        self.views = list(ms_views)
        self.max_boxes = ms_max_boxes
        self.training = model.training  # evaluation restores this afterwards, in the model too

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tests one image after the other.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` ``(3, H, W)``, raw; optionally
                ``height`` and ``width`` of the output, those of the image if missing.

        Returns:
            For each image ``instances``, as Detectron2's ``GeneralizedRCNN`` gives them.
        """
        test = self._test_whole if self.mode == "whole" else self._test_views
        results = []
        for item in batched_inputs:
            image = np.ascontiguousarray(item["image"].permute(1, 2, 0).cpu().numpy())
            height, width = image.shape[:2]
            output = (item.get("height") or height, item.get("width") or width)
            results.append({"instances": test(image, output)})
        return results

    def _test_whole(self, image: np.ndarray, output: Size) -> Instances:
        resized = _resized(image, self.rule)
        item = {"image": resized, "height": output[0], "width": output[1]}
        return self.model.inference([item])[0]["instances"]

    def _test_views(self, image: np.ndarray, output: Size) -> Instances:
        original = (image.shape[0], image.shape[1])
        seen = []
        for view in self.views:
            resized = _resized(image, KeepRatio(view.scale))
            for is_flipped in (False, True):
                seen.append(self._look(resized, is_flipped, original, view.areas))
        predictor = self.model.roi_heads.box_predictor[-1]
        detections = detect(
            torch.cat([view.boxes for view in seen]),
            torch.cat([view.scores for view in seen]),
            original,
            score_threshold=predictor.test_score_thresh,
            iou_threshold=predictor.test_nms_thresh,
            max_boxes=self.max_boxes,
        ).instances
        detections.pred_masks = self._mean_masks(seen, detections)
        return detector_postprocess(detections, *output)

    def _look(self, resized: Tensor, is_flipped: bool, original: Size, areas: str) -> _Seen:
        shown = resized.flip(-1) if is_flipped else resized
        images = self.model.preprocess_image([{"image": shown}])
        features = self.model.backbone(images.tensor)
        proposals, _ = self.model.proposal_generator(images, features, None)
        heads = self.model.roi_heads
        features = heads.with_context(features)
        ((boxes, scores),) = heads.score_boxes(features, proposals)
        frame = _Frame(original, (shown.shape[1], shown.shape[2]), is_flipped)
        boxes = frame.to_original(boxes)
        area = Boxes(boxes).area()
        kept = torch.zeros_like(area, dtype=torch.bool)
        for lowest, highest in (AREAS[name] for name in areas):
            kept |= (area > lowest) & (area <= highest)
        return _Seen(frame, features, boxes[kept], scores[kept])

    def _mean_masks(self, seen: Sequence[_Seen], detections: Instances) -> Tensor:
        """``(R, 1, h, w)`` in [0, 1], the mean over views and stages."""
        heads = self.model.roi_heads
        masks = []
        for view in seen:
            boxes = Boxes(view.frame.from_original(detections.pred_boxes.tensor))
            stages = heads.stage_masks(view.features, [boxes], detections.pred_classes)
            masks.append(stages.flip(-1) if view.frame.is_flipped else stages)
        return torch.stack([stages.mean(dim=0) for stages in masks]).mean(dim=0)


def _resized(image: np.ndarray, rule: KeepRatio) -> Tensor:
    """``(H, W, 3)`` -> ``(3, h, w)``."""
    resized = resize_image(image, rule.steps((image.shape[0], image.shape[1])))
    return torch.from_numpy(resized).permute(2, 0, 1)


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    left, top, right, bottom = boxes.unbind(dim=1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)
