"""Registration of Mapillary Vistas 1.2: its own 65 classes, and as the 19 of Cityscapes.

The names of the first are Mask2Former's; it reads the label maps as they are downloaded, palette
images in which 65 is "unlabeled". The second is what ViT-Adapter pre-trains on for Cityscapes.
"""

import os

from vitadapter_d2.data.datasets.cityscapes import CITYSCAPES_SEMANTIC_CATEGORIES
from vitadapter_d2.data.datasets.mapillary_categories import MAPILLARY_CATEGORIES
from vitadapter_d2.data.datasets.registration import Category, SemanticPaths, register_semantic

UNLABELED = 65
MAPILLARY_SEMANTIC_CATEGORIES = tuple(
    Category(i, name, color, is_thing)
    for i, (name, color, is_thing, _) in enumerate(MAPILLARY_CATEGORIES)
)
_SPLIT_FOLDERS = {"train": "training", "val": "validation"}


def mapillary_paths(root: str, split: str, labels: str = "labels") -> SemanticPaths:
    """Return the paths of ``train`` or ``val`` below the data root.

    Args:
        root: the data root.
        split: ``"train"`` or ``"val"``.
        labels: name of the folder of label maps: ``"labels"`` or ``"labels_cityscapes"``.
    """
    base = os.path.join(root, "mapillary_vistas", _SPLIT_FOLDERS[split])
    return SemanticPaths(images=os.path.join(base, "images"), labels=os.path.join(base, labels))


def mapillary_to_cityscapes() -> dict[int, int]:
    """Return the Cityscapes class of every value in the label maps, 255 where it has none."""
    contiguous = {c.name: i for i, c in enumerate(CITYSCAPES_SEMANTIC_CATEGORIES)}
    mapping = {
        value: 255 if cityscapes is None else contiguous[cityscapes]
        for value, (_, _, _, cityscapes) in enumerate(MAPILLARY_CATEGORIES)
    }
    return {**mapping, UNLABELED: 255}


def register_mapillary(root: str) -> None:
    """Register ``mapillary_vistas_sem_seg_*`` and ``mapillary_vistas_cityscapes_sem_seg_*``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in _SPLIT_FOLDERS:
        register_semantic(
            f"mapillary_vistas_sem_seg_{split}",
            mapillary_paths(root, split),
            MAPILLARY_SEMANTIC_CATEGORIES,
            ignore_label=UNLABELED,
            palette_labels=True,
        )
        register_semantic(
            f"mapillary_vistas_cityscapes_sem_seg_{split}",
            mapillary_paths(root, split, "labels_cityscapes"),
            CITYSCAPES_SEMANTIC_CATEGORIES,
        )
