"""Cityscapes (fine), 19 classes; options as in `semantic`."""

from .semantic import semantic


def cityscapes_semantic(crop=896, scale=(2048, 1024), **options):
    return semantic(
        "cityscapes_fine_sem_seg_train",
        "cityscapes_fine_sem_seg_val",
        num_classes=19,
        crop=crop,
        scale=scale,
        **options,
    )
