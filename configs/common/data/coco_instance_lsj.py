"""COCO with large-scale jitter: images scaled by 0.1 to 2 and cut to 1024 pixels.

The model pads them to squares, so that it knows where the image ends.
mmdetection draws another image where a crop leaves no object; here it counts as background.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from vitadapter_d2.data import ResizeToScale

from .coco_instance import dataloader, iterations, test

SIDE = 1024

dataloader.train.mapper.augmentations = [
    L(ResizeToScale)(scale=(SIDE, SIDE), ratio_range=(0.1, 2.0)),
    L(T.RandomCrop)(crop_type="absolute_range", crop_size=(SIDE, SIDE)),
    L(T.RandomFlip)(horizontal=True),
]
# A cut object gets the box of what is left of it.
dataloader.train.mapper.recompute_boxes = True
