"""Data sets. Importing this package registers them; it reads nothing from disk."""

from .ade20k import register_ade20k
from .coco import register_coco
from .registration import datasets_root
from .shapes import register_shapes
from .shapes_generator import ShapesSpec, generate

__all__ = ["ShapesSpec", "datasets_root", "generate", "register_all", "register_shapes"]


def register_all(root: str) -> None:
    """Register every data set of the project below ``root``; a second call changes nothing."""
    register_shapes(f"{root}/shapes")
    register_coco(root)
    register_ade20k(root)


register_all(datasets_root())
