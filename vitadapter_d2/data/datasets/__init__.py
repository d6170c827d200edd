"""Data sets. Importing this package registers them; it reads nothing from disk."""

from vitadapter_d2.data.datasets.ade20k import register_ade20k
from vitadapter_d2.data.datasets.chase_db1 import register_chase_db1
from vitadapter_d2.data.datasets.cityscapes import register_cityscapes
from vitadapter_d2.data.datasets.coco import register_coco
from vitadapter_d2.data.datasets.coco_stuff import register_coco_stuff
from vitadapter_d2.data.datasets.mapillary import register_mapillary
from vitadapter_d2.data.datasets.objects365 import register_objects365
from vitadapter_d2.data.datasets.objects_with_labels import (
    get_objects_with_labels,
    register_stuffthing,
)
from vitadapter_d2.data.datasets.pascal_context import register_pascal_context
from vitadapter_d2.data.datasets.potsdam import register_potsdam
from vitadapter_d2.data.datasets.registration import datasets_root
from vitadapter_d2.data.datasets.shapes import register_shapes
from vitadapter_d2.data.datasets.shapes_generator import ShapesSpec, generate

__all__ = [
    "ShapesSpec",
    "datasets_root",
    "generate",
    "get_objects_with_labels",
    "register_all",
    "register_shapes",
]


def register_all(root: str) -> None:
    """Register every data set of the project below ``root``; a second call changes nothing."""
    register_shapes(f"{root}/shapes")
    register_coco(root)
    register_ade20k(root)
    register_cityscapes(root)
    register_coco_stuff(root)
    register_stuffthing(root)
    register_objects365(root)
    register_pascal_context(root)
    register_mapillary(root)
    register_potsdam(root)
    register_chase_db1(root)


register_all(datasets_root())
