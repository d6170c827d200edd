"""The generated data set: panoptic training, panoptic, instance and semantic evaluation."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator

from vitadapter_d2.data import ChannelShuffle, PanopticMapper, build_train_loader
from vitadapter_d2.engine.records.pictures import PictureWriter

_TESTED = "${...test.dataset.names}"
_OUTPUT = "${train.output_dir}/inference"

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_train_panoptic"),
        mapper=L(PanopticMapper)(
            # A class is a shape and a pattern; colour tells nothing.
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(ChannelShuffle)(),
                L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
            ],
            image_format="RGB",
            num_classes=12,
        ),
        total_batch_size=8,
        aspect_ratio_grouping=False,
        num_workers=1,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="shapes_val_panoptic", filter_empty=False),
        mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
        num_workers=0,
    ),
    evaluator=[
        # First: the panoptic evaluator takes "isthing" out of the predictions.
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
        L(COCOPanopticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
        L(COCOEvaluator)(dataset_name=_TESTED, tasks=("bbox", "segm"), output_dir=_OUTPUT),
        L(SemSegEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
    ],
)
