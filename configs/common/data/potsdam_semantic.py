"""Potsdam, 6 classes; options as in `semantic`."""

from .semantic import semantic


def potsdam_semantic(crop=512, scale=(2048, 512), **options):
    return semantic(
        "potsdam_sem_seg_train",
        "potsdam_sem_seg_val",
        num_classes=6,
        crop=crop,
        scale=scale,
        **options,
    )
