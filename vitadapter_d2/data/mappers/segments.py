"""Mappers from label maps to mask-classification targets: semantic and panoptic."""

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
from detectron2.data import detection_utils

from vitadapter_d2.data.coco_format import rgb_to_ids
from vitadapter_d2.data.mappers.common import (
    ImageAugmenter,
    Record,
    SegmentAssembler,
    SegmentMap,
    check_classes,
    required,
)
from vitadapter_d2.labels import read_labels


class SemanticMapper:
    """Training mapper for label maps: the class of each pixel, and one mask per class.

    Reference: Cheng et al., Per-Pixel Classification is Not All You Need for Semantic
    Segmentation, Sec. 3, arXiv:2107.06278. Ignored pixels belong to no mask.

    Args:
        augmentations: Detectron2 augmentations, applied in this order.
        image_format: ``"RGB"`` or ``"BGR"``.
        num_classes: label values must lie below it; None skips the check.
        ignore_label: value of pixels without a label, in the files and in the result.
        has_masks: give ``instances``; what classifies pixels, not masks, is faster without.
        allow_palette: see ``read_labels``.
    """

    label_keys = ("sem_seg_file_name",)

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        num_classes: int | None = None,
        ignore_label: int = 255,
        has_masks: bool = True,
        allow_palette: bool = False,
    ) -> None:
        augmenter = ImageAugmenter(augmentations, image_format)
        self._assemble = SegmentAssembler(augmenter, ignore_label, has_masks)
        self._num_classes = num_classes
        self._ignore_label = ignore_label
        self._allow_palette = allow_palette

    def __call__(self, record: Record) -> Record:
        """Read and augment one record.

        Args:
            record: with ``file_name`` and ``sem_seg_file_name``.

        Returns:
            ``image`` (3, H, W) uint8, ``sem_seg`` (H, W) int64, ``instances`` with ``gt_classes``,
            ``gt_masks`` (``BitMasks``), ``gt_boxes``; ``file_name``, ``image_id`` and the original
            ``height`` and ``width``.

        Raises:
            FileNotFoundError: if the label file does not exist.
            ValueError: if it has colours, a class out of range or another size than the image.
        """
        path = required(record, "sem_seg_file_name")
        labels = read_labels(path, self._allow_palette)
        classes = np.unique(labels).astype(np.int64)
        classes = classes[classes != self._ignore_label]
        check_classes(classes, self._num_classes, path)
        number = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        number[classes] = np.arange(1, len(classes) + 1)
        is_target = np.ones(len(classes), bool)
        return self._assemble(dict(record), SegmentMap(number[labels], classes, is_target))


class PanopticMapper:
    """Training mapper with one target per panoptic segment; crowd segments give none.

    Args:
        augmentations: Detectron2 augmentations, applied in this order.
        image_format: ``"RGB"`` or ``"BGR"``.
        num_classes: category ids must lie below it; None skips the check.
        ignore_label: value in ``sem_seg`` of pixels without a segment.
    """

    label_keys = ("pan_seg_file_name",)

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        num_classes: int | None = None,
        ignore_label: int = 255,
    ) -> None:
        augmenter = ImageAugmenter(augmentations, image_format)
        self._assemble = SegmentAssembler(augmenter, ignore_label)
        self._num_classes = num_classes

    def __call__(self, record: Record) -> Record:
        """Read and augment one record.

        Args:
            record: with ``file_name``, ``pan_seg_file_name`` and ``segments_info``, whose
                category ids are contiguous.

        Returns:
            As ``SemanticMapper``; ``sem_seg`` also covers the crowd segments.

        Raises:
            ValueError: if the PNG file has an id that ``segments_info`` lacks, another size, or
                a category is out of range.
        """
        path = required(record, "pan_seg_file_name")
        segments = required(record, "segments_info")
        ids = rgb_to_ids(detection_utils.read_image(path, "RGB"))
        classes = np.array([s["category_id"] for s in segments], np.int64)
        check_classes(classes, self._num_classes, path)
        owner = np.zeros(ids.shape, np.int32)
        for number, segment in enumerate(segments, start=1):
            owner[ids == segment["id"]] = number
        unknown = ids[(owner == 0) & (ids != 0)]
        if unknown.size:
            raise ValueError(f"{path} has segment id {unknown[0]}, which segments_info lacks")
        is_target = np.array([not s.get("iscrowd", 0) for s in segments], bool)
        return self._assemble(dict(record), SegmentMap(owner, classes, is_target))
