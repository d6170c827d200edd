"""COCO-Stuff 164K, 171 classes; options as in `semantic`."""

from .semantic import semantic


def coco_stuff_164k_semantic(crop=640, **options):
    return semantic(
        "coco_2017_train_stuff_164k_sem_seg",
        "coco_2017_val_stuff_164k_sem_seg",
        num_classes=171,
        crop=crop,
        **{"scale": (4 * crop, crop), **options},
    )
