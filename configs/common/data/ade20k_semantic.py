"""ADE20K, 150 classes; options as in `semantic`."""

from .semantic import semantic


def ade20k_semantic(crop=512, **options):
    long_side = 2048 if crop <= 640 else 4 * crop  # 2048 x 640, but 3584 x 896
    return semantic(
        "ade20k_sem_seg_train",
        "ade20k_sem_seg_val",
        num_classes=150,
        crop=crop,
        **{"scale": (long_side, crop), **options},
    )
