"""The generated data set for models that classify pixels."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from vitadapter_d2.data import ChannelShuffle, SemanticMapper, build_train_loader
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import SemanticEvaluator
from vitadapter_d2.inference.semantic import SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow

_TESTED = "${...test.dataset.names}"

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_train_panoptic", filter_empty=False),
        mapper=L(SemanticMapper)(
            # A class is a shape and a pattern; colour tells nothing.
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(ChannelShuffle)(),
                L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
            ],
            image_format="RGB",
            num_classes=12,
            has_masks=False,
        ),
        total_batch_size=8,
        aspect_ratio_grouping=False,
        num_workers=1,
    ),
    test=L(build_detection_test_loader)(
        # Its records name the label maps too.
        dataset=L(get_detection_dataset_dicts)(names="shapes_val_panoptic", filter_empty=False),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers=0,
    ),
    evaluator=[
        L(SemanticEvaluator)(dataset_name=_TESTED, output_dir="${train.output_dir}/inference"),
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
    ],
)

# The images have the size of the window: all modes but "ms" see the same.
test = L(SemanticTester)(mode="whole", window=L(SlidingWindow)(crop_size=128, stride=85))
