"""Registration of CHASE DB1: vessels of the retina, labels of the first observer."""

import os

from vitadapter_d2.data.datasets.registration import Category, SemanticPaths, register_semantic

CHASE_DB1_SEMANTIC_CATEGORIES = (
    Category(0, "background", (120, 120, 120), False),
    Category(1, "vessel", (6, 230, 230), False),
)
_SPLIT_FOLDERS = {"train": "training", "val": "validation"}


def chase_db1_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of ``train`` or ``val`` below the data root."""
    base = os.path.join(root, "CHASE_DB1")
    return SemanticPaths(
        images=os.path.join(base, "images", _SPLIT_FOLDERS[split]),
        labels=os.path.join(base, "annotations", _SPLIT_FOLDERS[split]),
        image_suffix=".png",
        label_suffix="_1stHO.png",
    )


def register_chase_db1(root: str) -> None:
    """Register ``chase_db1_sem_seg_{train,val}``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in _SPLIT_FOLDERS:
        register_semantic(
            f"chase_db1_sem_seg_{split}",
            chase_db1_paths(root, split),
            CHASE_DB1_SEMANTIC_CATEGORIES,
        )
