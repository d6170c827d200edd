"""ADE20K, 150 classes, crops of 512 pixels, as facebookresearch/Mask2Former trains and tests."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .ade20k_semantic import ade20k_semantic
from .mask2former import crops

CROP = 512

dataloader = ade20k_semantic(crop=CROP, has_masks=True)
dataloader["train"].mapper.augmentations = crops(CROP, 2048, (CROP, CROP), pad=True)
dataloader["train"].aspect_ratio_grouping = True
dataloader["test"].mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=CROP, max_size=2048)
]
