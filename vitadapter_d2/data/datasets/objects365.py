"""Registration of Objects365 v2, on which HTC++ is pre-trained.

The names are those of other Detectron2 projects. The annotation files are the ones that
``datasets/prepare_objects365.py`` writes, with the image names as they are on disk.
"""

import os
from functools import partial

from detectron2.data.datasets import load_coco_json

from vitadapter_d2.data.datasets.objects365_categories import OBJECTS365_V2_NAMES
from vitadapter_d2.data.datasets.registration import register_once

SPLITS = ("train", "val")


def objects365_json(root: str, split: str) -> str:
    """Return the annotation file of ``train`` or ``val`` below the data root."""
    return os.path.join(root, "objects365", "annotations", f"objects365_v2_{split}.json")


def objects365_images(root: str, split: str) -> str:
    """Return the folder that holds ``patch0``, ``patch1``, ... of ``train`` or ``val``."""
    return os.path.join(root, "objects365", split)


def register_objects365(root: str) -> None:
    """Register ``objects365_v2_{train,val}``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in SPLITS:
        name = f"objects365_v2_{split}"
        json_file, images = objects365_json(root, split), objects365_images(root, split)
        register_once(
            name,
            partial(load_coco_json, json_file, images, name),
            evaluator_type="coco",
            image_root=images,
            json_file=json_file,
            thing_classes=list(OBJECTS365_V2_NAMES),
            thing_dataset_id_to_contiguous_id={
                number: i for i, number in enumerate(range(1, len(OBJECTS365_V2_NAMES) + 1))
            },
        )
