"""COCO detection and instance segmentation, 800 / 1333 pixels."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from vitadapter_d2.data import ResizeShortSide, build_train_loader
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import DetectionEvaluator

from ..testing import detection_test

TRAIN_IMAGES = 117266  # those with annotations
TOTAL_BATCH = 16


def iterations(epochs):
    return epochs * TRAIN_IMAGES // TOTAL_BATCH


dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(ResizeShortSide)(short_edge_length=800, max_size=1333),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
            use_instance_mask=True,
        ),
        total_batch_size=TOTAL_BATCH,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(ResizeShortSide)(short_edge_length=800, max_size=1333)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=[
        L(DetectionEvaluator)(
            dataset_name="${...test.dataset.names}", output_dir="${train.output_dir}/inference"
        ),
        L(PictureWriter)(
            dataset_name="${...test.dataset.names}", output_dir="${train.output_dir}/pictures"
        ),
    ],
)

test = detection_test()
