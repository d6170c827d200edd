"""What the mappers share: reading and augmenting an image, label maps, Detectron2's output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.structures import BitMasks, Instances

from vitadapter_d2.data.coco_format import ids_to_rgb, rgb_to_ids

Record = dict[str, Any]


@dataclass(frozen=True)
class SegmentMap:
    """A partition of an image into segments.

    Attributes:
        owner: ``(H, W)`` integers: 0 belongs to no segment, k + 1 to segment k.
        classes: ``(N,)`` int64, contiguous class of each segment.
        is_target: ``(N,)`` bool, False for segments that give no mask (crowds).
    """

    owner: np.ndarray
    classes: np.ndarray
    is_target: np.ndarray


class ImageAugmenter:
    """Reads the image of a record and applies the augmentations to it.

    Args:
        augmentations: Detectron2 augmentations, applied in this order.
        image_format: ``"RGB"`` or ``"BGR"``.

    Raises:
        ValueError: if the image format is unknown.
    """

    def __init__(
        self, augmentations: Sequence[T.Augmentation | T.Transform], image_format: str
    ) -> None:
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be RGB or BGR, got {image_format!r}")
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    def __call__(
        self, record: Record, sem_seg: np.ndarray | None = None
    ) -> tuple[np.ndarray, T.TransformList]:
        """Return the augmented ``(H, W, 3)`` uint8 image and what was done to it.

        Args:
            record: Detectron2's record; height and width are added if they are missing.
            sem_seg: ``(H, W)`` classes, for augmentations that choose by content.

        Raises:
            FileNotFoundError: the image does not exist.
            ValueError: it cannot be read, or the label map has another size.
        """
        image = self._read(record["file_name"])
        detection_utils.check_image_size(record, image)
        if sem_seg is not None and sem_seg.shape != image.shape[:2]:
            raise ValueError(
                f"the label map of {record['file_name']} has size {sem_seg.shape}, "
                f"the image {image.shape[:2]}"
            )
        augmented = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        return augmented.image, transforms

    def _read(self, path: str) -> np.ndarray:
        try:
            return detection_utils.read_image(path, format=self.image_format)
        except FileNotFoundError:
            raise
        except OSError as error:  # Pillow's, of a damaged file, does not name it
            raise ValueError(f"the image {path} cannot be read: {error}") from error


class SegmentAssembler:
    """Turns a record and its segments into Detectron2's training dict.

    Args:
        augmenter: reads and augments the image.
        ignore_label: value in ``sem_seg`` of pixels without a segment.
        has_masks: give ``instances``.
    """

    def __init__(
        self, augmenter: ImageAugmenter, ignore_label: int, has_masks: bool = True
    ) -> None:
        self.augmenter = augmenter
        self.ignore_label = ignore_label
        self.has_masks = has_masks

    def __call__(self, record: Record, segments: SegmentMap) -> Record:
        """Augment image and segments together.

        Returns:
            ``training_dict``, or ``image_dict`` without masks, plus ``sem_seg``, ``(H, W)`` int64:
            the class of each pixel.
        """
        class_of_owner = np.concatenate([[self.ignore_label], segments.classes])
        # Detectron2 resizes uint8 maps with Pillow and others with torch, which has no integer
        # kernel; this copy only steers the choice of crops.
        steering_type = np.uint8 if class_of_owner.max() <= 255 else np.float32
        steering = class_of_owner.astype(steering_type)[segments.owner]
        image, transforms = self.augmenter(record, steering)
        owner = transform_owner(segments.owner, transforms)
        if self.has_masks:
            numbers = np.flatnonzero(segments.is_target)
            numbers = numbers[np.isin(numbers + 1, np.unique(owner))]
            masks = owner == (numbers + 1).astype(owner.dtype)[:, None, None]
            output = training_dict(record, image, masks, segments.classes[numbers])
        else:
            output = image_dict(record, image)
        output["sem_seg"] = torch.from_numpy(class_of_owner[owner])
        return output


def transform_owner(owner: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """Apply geometric transforms to the ``owner`` map of a ``SegmentMap``.

    Padding becomes 0, "no segment", with every version of Detectron2: v0.6 pads label maps with
    0, later ones with 255, which is why a class map cannot be padded safely itself.

    Args:
        owner: ``(H, W)`` integers in [0, 2**24 - 2].
        transforms: what was done to the image.

    Returns:
        ``(H', W')`` uint8 or int32.
    """
    highest = int(owner.max(initial=0))
    if highest < 255:
        result = transforms.apply_segmentation(owner.astype(np.uint8))
    else:
        # Three bytes in a colour image: the only wide type that is resized without rounding.
        result = rgb_to_ids(transforms.apply_segmentation(ids_to_rgb(owner)))
    return np.where(result > highest, 0, result).astype(result.dtype)


def image_dict(record: Record, image: np.ndarray) -> Record:
    """Build what Detectron2's models take, without annotations.

    Args:
        record: gives ``file_name``, ``image_id``, ``height`` and ``width`` of the original image.
        image: ``(H, W, 3)`` uint8.

    Returns:
        The fields above and ``image``, ``(3, H, W)`` uint8.
    """
    kept = ("file_name", "image_id", "height", "width")
    output = {key: record[key] for key in kept if key in record}
    output["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return output


def training_dict(
    record: Record, image: np.ndarray, masks: np.ndarray, classes: np.ndarray
) -> Record:
    """Build what Detectron2's models take in training.

    Args:
        record: see ``image_dict``.
        image: ``(H, W, 3)`` uint8.
        masks: ``(N, H, W)`` bool, none of them empty.
        classes: ``(N,)`` integers.

    Returns:
        ``image_dict`` plus ``instances`` with ``gt_classes`` (N,) int64, ``gt_masks``
        (``BitMasks``) and ``gt_boxes``, the tight boxes of the masks.
    """
    output = image_dict(record, image)
    instances = Instances(image.shape[:2])
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    output["instances"] = instances
    return output


def required(record: Record, key: str) -> Any:
    """Return ``record[key]``; a ValueError names the image if the key is missing."""
    if key not in record:
        raise ValueError(
            f"the record of {record.get('file_name')} has no {key!r}: its data set is not "
            "registered with the annotations that this mapper reads"
        )
    return record[key]


def check_classes(classes: np.ndarray, num_classes: int | None, source: str) -> None:
    """Raise a ValueError naming ``source`` and the first class outside of [0, num_classes)."""
    highest = np.inf if num_classes is None else num_classes
    wrong = classes[(classes < 0) | (classes >= highest)]
    if wrong.size:
        legal = "a class of 0 or more" if num_classes is None else f"one of 0 to {num_classes - 1}"
        raise ValueError(f"{source} has class {wrong[0]}, expected {legal}")
