"""COCO with the multi-scale training of the published 3x schedules ("3x+MS").

Half of the images are resized, half are resized, cropped and resized again.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from vitadapter_d2.data import ResizeShortSide

from .coco_instance import dataloader, iterations, test

SHORT_SIDES = list(range(480, 801, 32))
LONG_SIDE = 1333


def resize(short_sides):
    return L(ResizeShortSide)(short_edge_length=short_sides, max_size=LONG_SIDE)


def crop(shortest, longest):
    return L(T.RandomCrop)(crop_type="absolute_range", crop_size=(shortest, longest))


dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomApply)(
        tfm_or_aug=L(T.AugmentationList)(augs=[resize([400, 500, 600]), crop(384, 600)]), prob=0.5
    ),
    resize(SHORT_SIDES),
    crop(1024, 1024),
]
