"""Mapper from object annotations, which may overlap, to mask targets."""

from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.structures import polygons_to_bitmask
from pycocotools import mask as coco_mask

from vitadapter_d2.data.mappers.common import (
    ImageAugmenter,
    Record,
    check_classes,
    required,
    training_dict,
)


class InstanceMapper:
    """Training mapper with one bit mask per object; crowds and empty masks are dropped.

    For large-scale jitter on masks stored as run lengths (shapes, ADE20K). There Detectron2's
    ``DatasetMapper`` takes the padding for object wherever label maps are padded with 255, as
    its newer ``FixedSizeCrop`` does, and it gives an image without objects no ``gt_masks``.

    Args:
        augmentations: Detectron2 augmentations, applied in this order.
        image_format: ``"RGB"`` or ``"BGR"``.
        num_classes: category ids must lie below it; None skips the check.
    """

    label_keys: tuple[str, ...] = ()  # reads no label map

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        num_classes: int | None = None,
    ) -> None:
        self._augmenter = ImageAugmenter(augmentations, image_format)
        self._num_classes = num_classes

    def __call__(self, record: Record) -> Record:
        """Read and augment one record.

        Args:
            record: with ``file_name`` and ``annotations``, whose category ids are contiguous and
                whose ``segmentation`` is a list of polygons, a run-length dict or a bit mask.

        Returns:
            ``image`` (3, H, W) uint8, ``instances`` with ``gt_classes``, ``gt_masks``
            (``BitMasks``), ``gt_boxes``; ``file_name``, ``image_id`` and the original ``height``
            and ``width``.

        Raises:
            ValueError: if an annotation has no mask or a class out of range.
        """
        record = dict(record)
        objects = [a for a in required(record, "annotations") if not a.get("iscrowd", 0)]
        classes = np.array([o["category_id"] for o in objects], np.int64)
        source = f"an annotation of {record['file_name']}"
        check_classes(classes, self._num_classes, source)
        if any(o.get("segmentation") is None for o in objects):
            raise ValueError(f"{source} has no segmentation, which this mapper needs")
        image, transforms = self._augmenter(record)
        height, width = image.shape[:2]
        masks = np.zeros((len(objects), height, width), bool)
        for mask, annotation in zip(masks, objects, strict=True):
            mask[:] = _transformed_mask(annotation["segmentation"], transforms, height, width)
        is_visible = masks.any(axis=(1, 2))
        return training_dict(record, image, masks[is_visible], classes[is_visible])


def _transformed_mask(
    segmentation: Any, transforms: T.TransformList, height: int, width: int
) -> np.ndarray:
    """Apply the transforms to one object: ``(height, width)`` bool."""
    if isinstance(segmentation, list):
        polygons = [np.array(p, np.float64).reshape(-1, 2) for p in segmentation]
        polygons = transforms.apply_polygons(polygons)
        return polygons_to_bitmask([p.reshape(-1) for p in polygons], height, width)
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        segmentation = coco_mask.decode(segmentation)
    return transforms.apply_segmentation(segmentation.astype(np.uint8)) == 1
