"""What the data of facebookresearch/Mask2Former's recipes share: crops, jitter, tests."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)

from vitadapter_d2.data import PadToMultiple, PhotometricDistortion, build_train_loader


def loaders(train, val, mapper, augmentations, short_side, max_size, evaluator):
    """Train on ``augmentations``; test on whole images of ``short_side`` pixels.

    ``mapper`` is a call without ``augmentations``.
    """
    mapper.augmentations = augmentations
    return dict(
        train=L(build_train_loader)(
            dataset=L(get_detection_dataset_dicts)(names=train),
            mapper=mapper,
            total_batch_size=16,
            num_workers=4,
        ),
        test=L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names=val, filter_empty=False),
            mapper=L(DatasetMapper)(
                is_train=False,
                augmentations=[
                    L(T.ResizeShortestEdge)(short_edge_length=short_side, max_size=max_size)
                ],
                image_format="RGB",
            ),
            num_workers=4,
        ),
        evaluator=evaluator,
    )


def crops(short_side, max_size, crop_size, pad):
    """Crops of images of 0.5 to 2 times ``short_side``, padded to ``crop_size`` if ``pad``."""
    padding = [L(PadToMultiple)(divisor=crop_size[0])] if pad else []
    return [
        L(T.ResizeShortestEdge)(
            short_edge_length=[short_side * step // 10 for step in range(5, 21)],
            max_size=max_size,
            sample_style="choice",
        ),
        L(T.RandomCrop)(crop_type="absolute", crop_size=crop_size),
        L(PhotometricDistortion)(),
        L(T.RandomFlip)(horizontal=True),
        *padding,
    ]


def large_scale_jitter(side=1024):
    """Images of 0.1 to 2 times ``side``, cut and padded to it."""
    return [
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=side, target_width=side),
        L(T.FixedSizeCrop)(crop_size=(side, side)),
    ]
