"""CHASE DB1, vessel and background; options as in `semantic`."""

from .semantic import semantic


def chase_db1_semantic(crop=128, scale=(999, 960), **options):
    return semantic(
        "chase_db1_sem_seg_train",
        "chase_db1_sem_seg_val",
        num_classes=2,
        crop=crop,
        scale=scale,
        **options,
    )
