"""Registration of the generated data set "shapes"."""

import os
from functools import partial

from vitadapter_d2.data.datasets.coco_records import load_coco_records
from vitadapter_d2.data.datasets.registration import (
    Category,
    PanopticPaths,
    load_panoptic_records,
    panoptic_metadata,
    register_once,
)
from vitadapter_d2.data.datasets.shapes_categories import SHAPES_STUFF, SHAPES_THINGS

SHAPES_CATEGORIES = (
    *(Category(c.id, c.name, c.color, True) for c in SHAPES_THINGS),
    *(Category(c.id, c.name, c.color, False) for c in SHAPES_STUFF),
)


def shapes_paths(root: str, split: str) -> PanopticPaths:
    """Return the paths of a split in a folder that ``shapes_generator.generate`` made."""
    annotations = os.path.join(root, "annotations")
    return PanopticPaths(
        images=os.path.join(root, "images", split),
        panoptic_json=os.path.join(annotations, f"panoptic_{split}.json"),
        panoptic=os.path.join(root, f"panoptic_{split}"),
        semantic=os.path.join(root, f"semantic_{split}"),
        instances_json=os.path.join(annotations, f"instances_{split}.json"),
    )


def register_shapes(root: str, prefix: str = "shapes") -> None:
    """Register ``<prefix>_{train,val}`` (objects) and ``<prefix>_{train,val}_panoptic``.

    Args:
        root: folder of the generated set; it need not exist yet.
        prefix: start of the names; another one registers another folder beside the default.
    """
    for split in ("train", "val"):
        paths = shapes_paths(root, split)
        metadata = panoptic_metadata(SHAPES_CATEGORIES, paths)
        name = f"{prefix}_{split}"
        register_once(
            name,
            partial(load_coco_records, paths.instances_json, paths.images, name),
            evaluator_type="coco",
            image_root=paths.images,
            json_file=paths.instances_json,
            thing_classes=metadata["thing_classes"],
            thing_colors=metadata["thing_colors"],
            thing_dataset_id_to_contiguous_id=metadata["thing_dataset_id_to_contiguous_id"],
        )
        register_once(
            f"{name}_panoptic",
            partial(load_panoptic_records, paths, SHAPES_CATEGORIES),
            evaluator_type="coco_panoptic_seg",
            **metadata,
        )
