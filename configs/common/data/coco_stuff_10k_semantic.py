"""COCO-Stuff 10K, 171 classes; options as in `semantic`."""

from .semantic import semantic


def coco_stuff_10k_semantic(crop=512, scale=(2048, 512), **options):
    return semantic(
        "coco_2017_train_stuff_10k_sem_seg",
        "coco_2017_test_stuff_10k_sem_seg",
        num_classes=171,
        crop=crop,
        scale=scale,
        **options,
    )
