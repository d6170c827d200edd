"""COCO objects with COCO-Stuff label maps, for Hybrid Task Cascade, and how it is tested."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from vitadapter_d2.data.datasets import get_objects_with_labels
from vitadapter_d2.inference.htc import BoxView, HTCTester

from .coco_instance import dataloader

# Short side of the view, and the sizes of the boxes that it gives.
_MS_VIEWS = ((600, "l"), (800, "l"), (1000, "ml"), (1200, "sm"), (1400, "sm"), (1600, "sm"))


def coco_htc(short_sides=(400, 1400), long_side=1600):
    """Sizes drawn from a large range; the published InstaBoost is not applied."""
    dataloader.train.dataset = L(get_objects_with_labels)(
        names="coco_2017_train", label_names="coco_2017_train_stuffthing"
    )
    dataloader.train.mapper.augmentations = [
        L(T.ResizeShortestEdge)(
            short_edge_length=short_sides, max_size=long_side, sample_style="range"
        ),
        L(T.RandomFlip)(horizontal=True),
    ]
    dataloader.test.mapper.augmentations = []
    return dataloader


def htc_test(scale=(1600, 1400), ms_long_side=3000):
    """`test.mode` is whole or ms."""
    return L(HTCTester)(
        mode="whole",
        scale=scale,
        ms_views=[
            L(BoxView)(scale=(ms_long_side, short), areas=areas) for short, areas in _MS_VIEWS
        ],
        ms_max_boxes=1000,
    )
