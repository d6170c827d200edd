"""Mapillary Vistas as the 19 classes of Cityscapes, both splits; tests on Cityscapes.

Options as in `semantic`.
"""

from .semantic import semantic


def mapillary_semantic(crop=896, scale=(2048, 1024), **options):
    return semantic(
        ["mapillary_vistas_cityscapes_sem_seg_train", "mapillary_vistas_cityscapes_sem_seg_val"],
        "cityscapes_fine_sem_seg_val",
        num_classes=19,
        crop=crop,
        scale=scale,
        **options,
    )
