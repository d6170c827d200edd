"""Pascal Context, 59 classes; options as in `semantic`.

In training the longer side has 520 pixels times the ratio, in tests the shorter.
"""

from .semantic import semantic


def pascal_context_semantic(crop=480, scale=(520, 520), **options):
    return semantic(
        "pascal_context_59_sem_seg_train",
        "pascal_context_59_sem_seg_val",
        num_classes=59,
        crop=crop,
        scale=scale,
        **options,
    )
