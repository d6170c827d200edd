"""Detectron2's mapper with InstaBoost before the other augmentations."""

import copy
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.data import DatasetMapper

from vitadapter_d2.data.instaboost import Boost, InstaBoost
from vitadapter_d2.data.mappers.common import Record, required


class BoostedMapper(DatasetMapper):
    """Training mapper whose objects are moved before the image and they are augmented together.

    An augmentation of Detectron2 sees no annotations, so that this cannot be one of them.

    Args:
        boost: draws the moves.
        arguments: of Detectron2's ``DatasetMapper``.

    Raises:
        ValueError: if keypoints are asked for, which are not moved.
    """

    label_keys = ("sem_seg_file_name",)

    def __init__(self, *, boost: InstaBoost, **arguments: Any) -> None:
        if arguments.get("use_keypoint", False):
            raise ValueError("use_keypoint must be False: InstaBoost does not move keypoints")
        super().__init__(**arguments)
        self.boost = boost

    def __call__(self, dataset_dict: Record) -> Record:
        """Read, boost and augment one record.

        Args:
            dataset_dict: with ``height``, ``width`` and ``annotations``.
        """
        boost = self.boost.draw(
            required(dataset_dict, "annotations"),
            required(dataset_dict, "height"),
            required(dataset_dict, "width"),
        )
        if boost is None:
            return super().__call__(dataset_dict)
        mapper = copy.copy(self)
        mapper.augmentations = T.AugmentationList([_BoostTransform(boost), self.augmentations])
        record = {**dataset_dict, "annotations": boost.move_annotations()}
        return super(BoostedMapper, mapper).__call__(record)


class _BoostTransform(T.Transform):
    """The part of a boost that concerns the image; coordinates and label maps stay.

    The published models' label maps are not moved either: the shifts are small.
    """

    def __init__(self, boost: Boost) -> None:
        super().__init__()
        self.boost = boost

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """See ``Boost.paint``."""
        return self.boost.paint(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """The annotations have been moved already."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Label maps are not moved."""
        return segmentation

    def inverse(self) -> T.Transform:
        """Coordinates are not changed."""
        return T.NoOpTransform()
