"""ADE20K, 150 classes, crops of 512 pixels, as facebookresearch/Mask2Former trains and tests."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from vitadapter_d2.data import PadToMultiple, PhotometricDistortion

from .ade20k_semantic import ade20k_semantic

CROP = 512

dataloader = ade20k_semantic(crop=CROP, has_masks=True)
dataloader["train"].mapper.augmentations = [
    L(T.ResizeShortestEdge)(
        short_edge_length=[CROP * step // 10 for step in range(5, 21)],
        max_size=2048,
        sample_style="choice",
    ),
    L(T.RandomCrop_CategoryAreaConstraint)(
        crop_type="absolute",
        crop_size=(CROP, CROP),
        single_category_max_area=1.0,
        ignored_category=255,
    ),
    L(PhotometricDistortion)(),
    L(T.RandomFlip)(horizontal=True),
    L(PadToMultiple)(divisor=CROP),
]
dataloader["train"].aspect_ratio_grouping = True
dataloader["test"].mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=CROP, max_size=2048)
]
