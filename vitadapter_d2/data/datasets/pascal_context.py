"""Registration of Pascal Context with 59 classes; the background is ignored."""

import os

from vitadapter_d2.data.datasets.ade20k_categories import ADE20K_CATEGORIES
from vitadapter_d2.data.datasets.pascal_context_categories import PASCAL_CONTEXT_CATEGORIES
from vitadapter_d2.data.datasets.registration import Category, SemanticPaths, register_semantic

# The set has no palette of its own; the usual one is ADE20K's, with "wall" for the background.
PASCAL_CONTEXT_SEMANTIC_CATEGORIES = tuple(
    Category(detail_id, name, color, False)
    for (detail_id, name), (_, color, _) in zip(
        PASCAL_CONTEXT_CATEGORIES, ADE20K_CATEGORIES[1:60], strict=True
    )
)


def pascal_context_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of ``train`` or ``val`` below the data root."""
    base = os.path.join(root, "VOC2010")
    return SemanticPaths(
        images=os.path.join(base, "JPEGImages"),
        labels=os.path.join(base, "annotations_detectron2", split),
        shares_images=True,
    )


def register_pascal_context(root: str) -> None:
    """Register ``pascal_context_59_sem_seg_{train,val}``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in ("train", "val"):
        register_semantic(
            f"pascal_context_59_sem_seg_{split}",
            pascal_context_paths(root, split),
            PASCAL_CONTEXT_SEMANTIC_CATEGORIES,
        )
