"""Registration of ADE20K: panoptic, instance; Detectron2's semantic names are completed."""

import os
from functools import partial

from detectron2.data import MetadataCatalog

from vitadapter_d2.data.datasets.ade20k_categories import ADE20K_CATEGORIES
from vitadapter_d2.data.datasets.coco_records import load_coco_records
from vitadapter_d2.data.datasets.registration import (
    Category,
    PanopticPaths,
    SemanticPaths,
    load_panoptic_records,
    load_semantic_records,
    panoptic_metadata,
    register_once,
    replace_loader,
)

ADE20K_PANOPTIC_CATEGORIES = tuple(
    Category(i, name, color, instance_name is not None)
    for i, (name, color, instance_name) in enumerate(ADE20K_CATEGORIES)
)
_SPLIT_FOLDERS = {"train": "training", "val": "validation"}


def ade20k_paths(root: str, split: str) -> PanopticPaths:
    """Return the paths of ``train`` or ``val`` below the data root."""
    ade20k = os.path.join(root, "ADEChallengeData2016")
    folder = _SPLIT_FOLDERS[split]
    return PanopticPaths(
        images=os.path.join(ade20k, "images", folder),
        panoptic_json=os.path.join(ade20k, f"ade20k_panoptic_{split}.json"),
        panoptic=os.path.join(ade20k, f"ade20k_panoptic_{split}"),
        semantic=os.path.join(ade20k, "annotations_detectron2", folder),
        instances_json=os.path.join(ade20k, f"ade20k_instance_{split}.json"),
    )


def register_ade20k(root: str) -> None:
    """Register ``ade20k_{panoptic,instance}_{train,val}`` and colour ``ade20k_sem_seg_*``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    things = [(i, row) for i, row in enumerate(ADE20K_CATEGORIES) if row[2] is not None]
    for split in _SPLIT_FOLDERS:
        paths = ade20k_paths(root, split)
        metadata = panoptic_metadata(ADE20K_PANOPTIC_CATEGORIES, paths)
        register_once(
            f"ade20k_panoptic_{split}",
            partial(load_panoptic_records, paths, ADE20K_PANOPTIC_CATEGORIES),
            evaluator_type="ade20k_panoptic_seg",
            **metadata,
        )
        name = f"ade20k_instance_{split}"
        register_once(
            name,
            partial(load_coco_records, paths.instances_json, paths.images, name),
            evaluator_type="coco",
            image_root=paths.images,
            json_file=paths.instances_json,
            thing_classes=[instance_name for _, (_, _, instance_name) in things],
            thing_colors=[list(color) for _, (_, color, _) in things],
            thing_dataset_id_to_contiguous_id={i: n for n, (i, _) in enumerate(things)},
        )
        name = f"ade20k_sem_seg_{split}"
        semantic = MetadataCatalog.get(name)
        if not hasattr(semantic, "stuff_colors"):
            semantic.stuff_colors = metadata["stuff_colors"]
        # Detectron2's loader leaves out images without a label map, and the rest is scored.
        labelled = SemanticPaths(semantic.image_root, semantic.sem_seg_root)
        replace_loader(name, partial(load_semantic_records, labelled))
