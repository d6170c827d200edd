"""The generated data set for detectors: objects with boxes and masks."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator

from vitadapter_d2.data import ChannelShuffle, build_train_loader
from vitadapter_d2.engine.records.pictures import PictureWriter

from ..testing import detection_test

_TESTED = "${...test.dataset.names}"

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(ChannelShuffle)(),
                L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
            ],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        ),
        total_batch_size=8,
        aspect_ratio_grouping=False,
        num_workers=1,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_val", filter_empty=False),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers=0,
    ),
    evaluator=[
        L(COCOEvaluator)(dataset_name=_TESTED, output_dir="${train.output_dir}/inference"),
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
    ],
)

test = detection_test(ms_short_sides=(112, 128, 144), proportion=1)
