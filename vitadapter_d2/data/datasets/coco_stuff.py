"""Registration of COCO-Stuff, 171 classes: the 10K release and the 164K one on COCO 2017.

The names of the 10K release and its folders are Mask2Former's.
"""

import os

from vitadapter_d2.data.datasets.coco_stuff_categories import COCO_STUFF_CATEGORIES
from vitadapter_d2.data.datasets.registration import Category, SemanticPaths, register_semantic

NUM_THINGS = 80
COCO_STUFF_SEMANTIC_CATEGORIES = tuple(
    Category(raw_id, name, color, i < NUM_THINGS)
    for i, (raw_id, name, color) in enumerate(COCO_STUFF_CATEGORIES)
)


def coco_stuff_10k_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of ``train`` or ``test`` of the 10K release below the data root."""
    base = os.path.join(root, "coco", "coco_stuff_10k")
    return SemanticPaths(
        images=os.path.join(base, "images_detectron2", split),
        labels=os.path.join(base, "annotations_detectron2", split),
    )


def coco_stuff_164k_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of ``train`` or ``val`` of COCO-Stuff 164K below the data root."""
    coco = os.path.join(root, "coco")
    return SemanticPaths(
        images=os.path.join(coco, f"{split}2017"),
        labels=os.path.join(coco, "stuffthingmaps_detectron2", f"{split}2017"),
    )


def register_coco_stuff(root: str) -> None:
    """Register ``coco_2017_{train,test}_stuff_10k_sem_seg`` and ``..._{train,val}_stuff_164k_...``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in ("train", "test"):
        name = f"coco_2017_{split}_stuff_10k_sem_seg"
        register_semantic(name, coco_stuff_10k_paths(root, split), COCO_STUFF_SEMANTIC_CATEGORIES)
    for split in ("train", "val"):
        name = f"coco_2017_{split}_stuff_164k_sem_seg"
        register_semantic(name, coco_stuff_164k_paths(root, split), COCO_STUFF_SEMANTIC_CATEGORIES)
