"""COCO panoptic with large-scale jitter at 1024 pixels, as in Mask2Former."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator

from vitadapter_d2.data import PanopticMapper, build_train_loader
from vitadapter_d2.engine.records.pictures import PictureWriter

_TESTED = "${...test.dataset.names}"
_OUTPUT = "${train.output_dir}/inference"

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train_panoptic"),
        mapper=L(PanopticMapper)(
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(T.ResizeScale)(
                    min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024
                ),
                L(T.FixedSizeCrop)(crop_size=(1024, 1024)),
            ],
            image_format="RGB",
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names="coco_2017_val_panoptic_with_sem_seg", filter_empty=False
        ),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=[
        # First: the panoptic evaluator takes "isthing" out of the predictions.
        L(PictureWriter)(dataset_name=_TESTED, output_dir="${train.output_dir}/pictures"),
        L(COCOPanopticEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
        L(COCOEvaluator)(dataset_name=_TESTED, tasks=("bbox", "segm"), output_dir=_OUTPUT),
        L(SemSegEvaluator)(dataset_name=_TESTED, output_dir=_OUTPUT),
    ],
)
