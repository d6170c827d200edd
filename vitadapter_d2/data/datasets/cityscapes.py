"""Cityscapes (fine): Detectron2's semantic names get their palette.

Detectron2 registers ``cityscapes_fine_sem_seg_{train,val,test}`` itself, with the class names but
without colours. The label maps are ``*_gtFine_labelTrainIds.png``.
"""

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from vitadapter_d2.data.datasets.registration import Category

CITYSCAPES_SEMANTIC_CATEGORIES = tuple(
    Category(c["id"], c["name"], tuple(c["color"]), bool(c["isthing"]))
    for c in sorted(CITYSCAPES_CATEGORIES, key=lambda c: c["trainId"])
)
"""In the order of the train ids; a category's own id is its label id, 7 to 33."""


def register_cityscapes() -> None:
    """Colour ``cityscapes_fine_sem_seg_{train,val,test}``."""
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"cityscapes_fine_sem_seg_{split}")
        if not hasattr(metadata, "stuff_colors"):
            metadata.stuff_colors = [list(c.color) for c in CITYSCAPES_SEMANTIC_CATEGORIES]
