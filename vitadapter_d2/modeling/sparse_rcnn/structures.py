"""What the parts of Sparse R-CNN hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class BoxPrediction:
    """Predictions of all stages.

    Attributes:
        logits: ``(L, B, Q, K)`` float32, one sigmoid for each class, no background.
        boxes: ``(L, B, Q, 4)`` float32, xyxy in pixels of the image, not clipped to it.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class BoxTargets:
    """Ground truth of a batch, all images' objects one after the other.

    Attributes:
        labels: ``(N,)`` int64, in [0, K).
        boxes: ``(N, 4)`` float32, xyxy in pixels.
        counts: number of objects of each image; its sum is N.
        image_whwh: ``(B, 4)`` float32, width and height of each image, twice, without padding.
    """

    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    image_whwh: Tensor

    @property
    def image_index(self) -> Tensor:
        """``(N,)`` int64, the image of each object."""
        # Repeated on the host, where the counts are: no synchronisation.
        index = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        return index.to(self.labels.device)

    @classmethod
    def from_instances(
        cls, images: Sequence[Instances], num_classes: int, image_whwh: Tensor
    ) -> "BoxTargets":
        """Joins the ground truth of images, checked.

        Args:
            images: with ``gt_classes`` and ``gt_boxes``; without fields, no objects.
            num_classes: classes K.
            image_whwh: ``(B, 4)``; its device is that of the result.

        Raises:
            ValueError: for missing fields, classes outside of [0, K), boxes that are not finite or
                end before they start.
        """
        checked = [_image_targets(instances, num_classes) for instances in images]
        device = image_whwh.device
        return cls(
            labels=torch.cat([labels.to(device) for labels, _ in checked]),
            boxes=torch.cat([boxes.to(device) for _, boxes in checked]),
            counts=tuple(len(labels) for labels, _ in checked),
            image_whwh=image_whwh,
        )


def _image_targets(instances: Instances, num_classes: int) -> tuple[Tensor, Tensor]:
    fields = instances.get_fields()
    if not fields or not len(instances):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    if missing := {"gt_classes", "gt_boxes"} - fields.keys():
        raise ValueError(f"instances need {sorted(missing)}, got {sorted(fields)}")
    labels, boxes = instances.gt_classes, instances.gt_boxes.tensor.float()
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"gt_classes must be in [0, {num_classes}), got {labels.min()} to {labels.max()}"
        )
    is_box = boxes.isfinite().all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)
    if not is_box.all():
        raise ValueError(
            "gt_boxes must be finite, x1 <= x2 and y1 <= y2, got "
            f"{boxes[~is_box][0].tolist()} (XYXY_ABS)"
        )
    return labels, boxes
