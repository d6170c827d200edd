"""Cityscapes (fine): Detectron2's names get what training and evaluation lack.

Detectron2 registers ``cityscapes_fine_{sem_seg,instance_seg}_{train,val,test}`` and
``cityscapes_fine_panoptic_{train,val}`` itself. Its loaders of objects and segments are replaced
for ``train`` and ``val``: that of objects needs the package cityscapesscripts (on Detectron2's main
branch one that is not public), takes minutes at every start and fills the holes of objects; that of
segments finds no label maps below a folder whose path has a dot. The label maps are
``*_gtFine_labelTrainIds.png``.
"""

import os
from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from vitadapter_d2.data.datasets.coco_records import load_coco_records
from vitadapter_d2.data.datasets.registration import (
    Category,
    PanopticPaths,
    Record,
    load_panoptic_records,
    replace_loader,
)

CITYSCAPES_SEMANTIC_CATEGORIES = tuple(
    Category(c["id"], c["name"], tuple(c["color"]), bool(c["isthing"]))
    for c in sorted(CITYSCAPES_CATEGORIES, key=lambda c: c["trainId"])
)
"""In the order of the train ids; a category's own id is its label id, 7 to 33."""

SPLITS = ("train", "val")


def cityscapes_paths(root: str, split: str) -> PanopticPaths:
    """Return the paths of ``train`` or ``val`` below the data root; labels lie by city."""
    labels = os.path.join(root, "cityscapes", "gtFine")
    return PanopticPaths(
        images=os.path.join(root, "cityscapes", "leftImg8bit", split),
        panoptic_json=os.path.join(labels, f"cityscapes_panoptic_{split}.json"),
        panoptic=os.path.join(labels, f"cityscapes_panoptic_{split}"),
        semantic=os.path.join(labels, split),
        instances_json=os.path.join(labels, f"cityscapes_instance_{split}.json"),
    )


def register_cityscapes(root: str) -> None:
    """Complete Detectron2's names.

    Args:
        root: the data root; nothing need exist there yet.
    """
    colors = [list(c.color) for c in CITYSCAPES_SEMANTIC_CATEGORIES]
    for split in (*SPLITS, "test"):
        _complete(f"cityscapes_fine_sem_seg_{split}", stuff_colors=colors)
    things = [c for c in CITYSCAPES_SEMANTIC_CATEGORIES if c.is_thing]
    for split in SPLITS:
        paths, name = cityscapes_paths(root, split), f"cityscapes_fine_instance_seg_{split}"
        _complete(
            name,
            image_root=paths.images,
            json_file=paths.instances_json,
            thing_colors=[list(c.color) for c in things],
            thing_dataset_id_to_contiguous_id={c.id: i for i, c in enumerate(things)},
        )
        replace_loader(name, partial(_load_objects, name))
        name = f"cityscapes_fine_panoptic_{split}"
        replace_loader(name, partial(_load_segments, name))


def _complete(name: str, **values: object) -> None:
    metadata = MetadataCatalog.get(name)
    for key, value in values.items():
        if not hasattr(metadata, key):
            setattr(metadata, key, value)


def _load_objects(name: str) -> list[Record]:
    metadata = MetadataCatalog.get(name)
    if not os.path.isfile(metadata.json_file):
        raise FileNotFoundError(
            f"{metadata.json_file} does not exist; datasets/prepare_cityscapes_panoptic.py makes it"
        )
    return load_coco_records(metadata.json_file, metadata.image_root, name)


def _load_segments(name: str) -> list[Record]:
    metadata = MetadataCatalog.get(name)
    paths = PanopticPaths(
        images=metadata.image_root,
        panoptic_json=metadata.panoptic_json,
        panoptic=metadata.panoptic_root,
        semantic=metadata.gt_dir,
        instances_json="",
    )
    records = load_panoptic_records(paths, CITYSCAPES_SEMANTIC_CATEGORIES)
    for record in records:  # the JSON file names no file that exists, and no city
        stem = record["image_id"]
        city = stem.partition("_")[0]
        record["file_name"] = os.path.join(paths.images, city, f"{stem}_leftImg8bit.png")
        labels = f"{stem}_gtFine_labelTrainIds.png"
        record["sem_seg_file_name"] = os.path.join(paths.semantic, city, labels)
    return records
