"""Detectors tested at one size of the image or at many, mirrored too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn

from vitadapter_d2.inference.detection_views import Frame, View, look
from vitadapter_d2.inference.resize_rules import KeepRatio, Size, as_array, resize_image
from vitadapter_d2.layers.suppression import NMS, Suppression
from vitadapter_d2.modeling.box_predictor import suppress

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


class DetectionTester(nn.Module):
    """Detectron2's input and output around a detector; test-time augmentation is the mode "ms".

    There each view, mirrored too, gives boxes; what is left of all of them when the same object is
    shown once gets the mean of the masks of all views: made of the merged boxes by a model with
    ROI heads, whose features of all views are held until then; of any other model the masks of the
    detections that overlap them.

    Reference for HTC++: the test settings of ViT-Adapter's released configurations, arXiv
    2205.08534, Sec. 4.1. There all candidates of all views meet in one Soft-NMS; of other models
    the detections do.

    Args:
        model: the detector.
        mode: "whole" looks at one size, "ms" at all of ``ms_views``.
        scale: limits of the sides in the mode "whole"; None takes the image as the mapper gives
            it.
        ms_views: in the mode "ms".
        ms_flip: the mirror image of each of them, too.
        ms_merge: chooses among the boxes of all views.
        ms_max_boxes: detections per image in the mode "ms".

    Attributes:
        resizes: whether the image is resized here; then the mapper must not.

    Raises:
        ValueError: the mode is unknown, or has no views.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str = "whole",
        *,
        scale: Sequence[int] | None = None,
        ms_views: Sequence[BoxView] = (),
        ms_flip: bool = True,
        ms_merge: Suppression = NMS(),
        ms_max_boxes: int = 100,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if mode == "ms" and not ms_views:
            raise ValueError("the mode 'ms' needs ms_views, got none")
        self.model = model
        self.mode = mode
        self.rule = None if scale is None else KeepRatio(scale)
        self.resizes = mode == "ms" or self.rule is not None
        self.views = list(ms_views)
        self.flips = (False, True) if ms_flip else (False,)
        self.merge = ms_merge
        self.max_boxes = ms_max_boxes
        self.training = model.training  # evaluation restores this afterwards, in the model too

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tests images, one after the other where they are resized.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` ``(3, H, W)``, raw; optionally
                ``height`` and ``width`` of the output, those of the image if missing.

        Returns:
            For each image ``instances``, as Detectron2's ``GeneralizedRCNN`` gives them; in the
            mode "whole" all that the model gives.

        Raises:
            ValueError: an image is not ``(3, H, W)`` or is empty.
        """
        if self.mode == "ms":
            return [{"instances": self._test_views(item)} for item in batched_inputs]
        if self.rule is None:
            return self.model(list(batched_inputs))
        return [self.model([_resized(item, self.rule)])[0] for item in batched_inputs]

    def _test_views(self, item: dict[str, Any]) -> Instances:
        seen, found = [], []
        for view in self.views:
            for view_seen in self._look(item, view):
                seen.append(view_seen)
                found.append(_of_areas(view_seen.found, view.areas))
        merged, _ = suppress(Instances.cat(found), self.merge, self.max_boxes)
        return type(seen[0]).with_masks(seen, merged)

    def _look(self, item: dict[str, Any], view: BoxView) -> Iterator[View]:
        resized = _resized(item, KeepRatio(view.scale))
        image = resized["image"]
        original, size = (resized["height"], resized["width"]), (image.shape[1], image.shape[2])
        for is_flipped in self.flips:
            shown = image.flip(-1) if is_flipped else image
            yield look(self.model, shown, Frame(original, size, is_flipped))


def _of_areas(found: Instances, names: str) -> Instances:
    area = found.pred_boxes.area()
    kept = torch.zeros_like(area, dtype=torch.bool)
    for lowest, highest in (AREAS[name] for name in names):
        kept |= (area > lowest) & (area <= highest)
    return found[kept]


def _resized(item: dict[str, Any], rule: KeepRatio) -> dict[str, Any]:
    """The item with its image resized, and the size of the output."""
    image = as_array(item["image"])
    size: Size = (image.shape[0], image.shape[1])
    resized = torch.from_numpy(resize_image(image, rule.steps(size))).permute(2, 0, 1)
    return {
        "image": resized,
        "height": int(item.get("height") or size[0]),
        "width": int(item.get("width") or size[1]),
    }
