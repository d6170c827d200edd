"""ADE20K, 150 classes, crops of 512 pixels, as in Mask2Former."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import SemSegEvaluator

from vitadapter_d2.data import PadToMultiple, PhotometricDistortion, SemanticMapper
from vitadapter_d2.engine.pictures import PictureWriter

CROP = 512
_VAL = "ade20k_sem_seg_val"

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ade20k_sem_seg_train", filter_empty=False),
        mapper=L(SemanticMapper)(
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[CROP * step // 10 for step in range(5, 21)],
                    max_size=2048,
                    sample_style="choice",
                ),
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute",
                    crop_size=(CROP, CROP),
                    single_category_max_area=1.0,
                    ignored_category=255,
                ),
                L(PhotometricDistortion)(),
                L(T.RandomFlip)(horizontal=True),
                L(PadToMultiple)(divisor=CROP),
            ],
            image_format="RGB",
            num_classes=150,
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=_VAL, filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=CROP, max_size=2048)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=[
        L(SemSegEvaluator)(dataset_name=_VAL, output_dir="${train.output_dir}/inference"),
        L(PictureWriter)(dataset_name=_VAL, output_dir="${train.output_dir}/pictures"),
    ],
)
