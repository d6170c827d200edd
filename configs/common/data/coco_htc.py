"""COCO objects with COCO-Stuff label maps, for Hybrid Task Cascade, and how it is tested."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from vitadapter_d2.data import BoostedMapper, InstaBoost, ResizeShortSide
from vitadapter_d2.data.datasets import get_objects_with_labels
from vitadapter_d2.inference.detection import BoxView, DetectionTester
from vitadapter_d2.layers.suppression import SoftNMS

from .coco_instance import dataloader

# Short side of the view, and the sizes of the boxes that it gives.
_MS_VIEWS = ((600, "l"), (800, "l"), (1000, "ml"), (1200, "sm"), (1400, "sm"), (1600, "sm"))


def coco_htc(short_sides=(400, 1400), long_side=1600, instaboost=True):
    """Sizes drawn from a large range; before that, objects are moved with the published odds."""
    dataloader.train.dataset = L(get_objects_with_labels)(
        names="coco_2017_train", label_names="coco_2017_train_stuffthing"
    )
    if instaboost:
        dataloader.train.mapper._target_ = BoostedMapper
        dataloader.train.mapper.boost = L(InstaBoost)(
            action_candidate=("normal", "horizontal", "skip"),
            action_prob=(1, 0, 0),
            scale=(0.8, 1.2),
            dx=15,
            dy=15,
            theta=(-1, 1),
            color_prob=0.5,
            aug_ratio=0.5,
        )
    dataloader.train.mapper.augmentations = [
        L(ResizeShortSide)(short_edge_length=short_sides, max_size=long_side, sample_style="range"),
        L(T.RandomFlip)(horizontal=True),
    ]
    dataloader.test.mapper.augmentations = []
    return dataloader


def htc_test(scale=(1600, 1400), ms_long_side=3000):
    """`test.mode` is whole or ms."""
    return L(DetectionTester)(
        mode="whole",
        scale=scale,
        ms_views=[
            L(BoxView)(scale=(ms_long_side, short), areas=areas) for short, areas in _MS_VIEWS
        ],
        ms_merge=L(SoftNMS)(iou_threshold=0.5, min_score=0.001),
        ms_max_boxes=1000,
    )
