"""What the data sets of label maps share: the official training pipeline, tests at full size."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from vitadapter_d2.data import (
    PadShortSide,
    PhotometricDistortion,
    ResizeToScale,
    SemanticMapper,
    build_train_loader,
)
from vitadapter_d2.engine.records.pictures import PictureWriter
from vitadapter_d2.evaluation import SemanticEvaluator

from ..normalization import IMAGENET_MEAN


def semantic(
    train,
    val,
    num_classes,
    crop,
    scale,
    *,
    has_masks,
    pixel_mean=IMAGENET_MEAN,
    total_batch_size=16,
):
    """Train on crops of ``crop`` pixels; test on whole images, which the tester resizes.

    ``train`` is a name or a list of names, ``scale`` the (long, short) side that is multiplied by a
    ratio in [0.5, 2]. ``has_masks`` is for models that classify masks. Padding has the colour
    ``pixel_mean``, which the model turns into 0.
    """
    return dict(
        train=L(build_train_loader)(
            dataset=L(get_detection_dataset_dicts)(names=train, filter_empty=False),
            mapper=L(SemanticMapper)(
                augmentations=official_augmentations(crop, scale, pixel_mean),
                image_format="RGB",
                num_classes=num_classes,
                has_masks=has_masks,
            ),
            total_batch_size=total_batch_size,
            aspect_ratio_grouping=False,
            num_workers=4,
        ),
        test=L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names=val, filter_empty=False),
            mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="RGB"),
            num_workers=4,
        ),
        evaluator=[
            L(SemanticEvaluator)(
                dataset_name="${...test.dataset.names}", output_dir="${train.output_dir}/inference"
            ),
            L(PictureWriter)(
                dataset_name="${...test.dataset.names}", output_dir="${train.output_dir}/pictures"
            ),
        ],
    )


def official_augmentations(crop, scale, pixel_mean):
    """The pipeline of mmsegmentation's and ViT-Adapter's configurations."""
    return [
        L(ResizeToScale)(scale=scale, ratio_range=(0.5, 2.0)),
        L(T.RandomCrop_CategoryAreaConstraint)(
            crop_type="absolute",
            crop_size=(crop, crop),
            single_category_max_area=0.75,
            ignored_category=255,
        ),
        L(T.RandomFlip)(horizontal=True),
        L(PhotometricDistortion)(),
        L(PadShortSide)(size=crop, pad_value=pixel_mean),
    ]
