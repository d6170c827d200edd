"""Registration of ISPRS Potsdam: 6 classes, tiles cut into crops of 512 pixels."""

import os

from vitadapter_d2.data.datasets.registration import Category, SemanticPaths, register_semantic

# The colours are those of the label pictures as well.
POTSDAM_SEMANTIC_CATEGORIES = (
    Category(1, "impervious_surface", (255, 255, 255), False),
    Category(2, "building", (0, 0, 255), False),
    Category(3, "low_vegetation", (0, 255, 255), False),
    Category(4, "tree", (0, 255, 0), False),
    Category(5, "car", (255, 255, 0), False),
    Category(6, "clutter", (255, 0, 0), False),
)

# Tiles by their numbers, "row_column" in the file names; the split is mmsegmentation's.
POTSDAM_TILES = {
    "train": tuple(
        "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 "
        "6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12".split()
    ),
    "val": tuple("2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13".split()),
}


def potsdam_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of ``train`` or ``val`` below the data root."""
    base = os.path.join(root, "potsdam")
    return SemanticPaths(
        images=os.path.join(base, "img_dir", split),
        labels=os.path.join(base, "annotations_detectron2", split),
        image_suffix=".png",
    )


def register_potsdam(root: str) -> None:
    """Register ``potsdam_sem_seg_{train,val}``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in POTSDAM_TILES:
        register_semantic(
            f"potsdam_sem_seg_{split}", potsdam_paths(root, split), POTSDAM_SEMANTIC_CATEGORIES
        )
