"""How much the published data sets hold, so that an incomplete copy is noticed.

Numbers of images are those of the releases' own pages and papers; numbers of annotations those of
the annotation files. None stands for a number that is not published.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Size of one split: images, and objects (or segments) in its annotation file."""

    images: int
    annotations: int | None = None


_COCO_TRAIN, _COCO_VAL = Published(118287, 860001), Published(5000, 36781)
_COCO_TRAIN_IMAGES, _COCO_VAL_IMAGES = Published(118287), Published(5000)
_ADE20K = {"train": Published(20210), "val": Published(2000)}
_CITYSCAPES = {"train": Published(2975), "val": Published(500)}

PUBLISHED: dict[str, Published] = {
    "coco_2017_train": _COCO_TRAIN,
    "coco_2017_val": _COCO_VAL,
    "coco_2017_test": Published(40670),
    "coco_2017_test-dev": Published(20288),
    **{
        f"coco_2017_{split}_{kind}": size
        for split, size in (("train", _COCO_TRAIN_IMAGES), ("val", _COCO_VAL_IMAGES))
        for kind in (
            "panoptic",
            "panoptic_with_sem_seg",
            "panoptic_separated",
            "panoptic_stuffonly",
            "stuffthing",
            "stuff_164k_sem_seg",
        )
    },
    "coco_2017_train_stuff_10k_sem_seg": Published(9000),
    "coco_2017_test_stuff_10k_sem_seg": Published(1000),
    "lvis_v1_train": Published(100170, 1270141),
    "lvis_v1_val": Published(19809, 244707),
    "lvis_v1_test_dev": Published(19822),
    "lvis_v1_test_challenge": Published(19822),
    "objects365_v2_train": Published(1742289),
    "objects365_v2_val": Published(80000),
    **{
        f"ade20k_{kind}_{split}": size
        for kind in ("sem_seg", "panoptic", "instance")
        for split, size in _ADE20K.items()
    },
    **{
        f"cityscapes_fine_{kind}_{split}": size
        for kind in ("sem_seg", "instance_seg", "panoptic")
        for split, size in _CITYSCAPES.items()
    },
    "pascal_context_59_sem_seg_train": Published(4998),
    "pascal_context_59_sem_seg_val": Published(5105),
    **{
        f"{name}_sem_seg_{split}": Published(images)
        for name in ("mapillary_vistas", "mapillary_vistas_cityscapes")
        for split, images in (("train", 18000), ("val", 2000))
    },
    "potsdam_sem_seg_train": Published(3456),
    "potsdam_sem_seg_val": Published(2016),
    "chase_db1_sem_seg_train": Published(20),
    "chase_db1_sem_seg_val": Published(8),
}
"""Registered name -> size of the published split."""


def published_images(name: str, *splits: str) -> dict[str, int]:
    """Return split -> images; ``name`` has ``{}`` where the split stands."""
    return {split: PUBLISHED[name.format(split)].images for split in splits}
