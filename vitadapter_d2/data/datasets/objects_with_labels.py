"""Records of objects together with label maps, for models that train on both."""

import os
from functools import partial

from detectron2.data import get_detection_dataset_dicts

from vitadapter_d2.data.datasets.coco_stuff_categories import COCO_STUFF_CATEGORIES
from vitadapter_d2.data.datasets.registration import (
    Record,
    SemanticPaths,
    load_semantic_records,
    register_once,
)

# Label ids of COCO-Stuff that have a name and no pixel.
_NEVER_ANNOTATED = {
    12: "street sign",
    26: "hat",
    29: "shoe",
    30: "eye glasses",
    45: "plate",
    66: "mirror",
    68: "window",
    69: "desk",
    71: "door",
    83: "blender",
    91: "hair brush",
}
_NAMES = {raw_id: name for raw_id, name, _ in COCO_STUFF_CATEGORIES} | _NEVER_ANNOTATED
STUFFTHING_NAMES = tuple(_NAMES[raw_id] for raw_id in sorted(_NAMES))
"""Names of the pixel values 0 to 181; HTC's 183rd channel has neither name nor pixels."""


def stuffthing_paths(root: str, split: str) -> SemanticPaths:
    """Return the paths of COCO-Stuff 164K as it is downloaded, ``train`` or ``val``."""
    coco = os.path.join(root, "coco")
    return SemanticPaths(
        images=os.path.join(coco, f"{split}2017"),
        labels=os.path.join(coco, "stuffthingmaps", f"{split}2017"),
    )


def register_stuffthing(root: str) -> None:
    """Register ``coco_2017_{train,val}_stuffthing``, pixels 0 to 181 as they are in the files.

    A pixel is the label id of COCO-Stuff minus one. Hybrid Task Cascade is trained on these values,
    not on the 171 that occur.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in ("train", "val"):
        paths = stuffthing_paths(root, split)
        register_once(
            f"coco_2017_{split}_stuffthing",
            partial(load_semantic_records, paths),
            evaluator_type="sem_seg",
            image_root=paths.images,
            sem_seg_root=paths.labels,
            stuff_classes=list(STUFFTHING_NAMES),
            ignore_label=255,
        )


def get_objects_with_labels(
    names: str, label_names: str, filter_empty: bool = True
) -> list[Record]:
    """Join two registered data sets of the same images.

    Args:
        names: data set with ``annotations``.
        label_names: data set with ``sem_seg_file_name``; it may have more images.
        filter_empty: leave out images without objects that are no crowd.

    Returns:
        The records of ``names``, each with ``sem_seg_file_name``.

    Raises:
        ValueError: if an image of ``names`` has no label map.
    """
    labelled = get_detection_dataset_dicts(label_names, filter_empty=False)
    # By path, as the splits of a set may share names.
    maps = {os.path.abspath(r["file_name"]): r["sem_seg_file_name"] for r in labelled}
    records = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    for record in records:
        path = os.path.abspath(record["file_name"])
        if path not in maps:
            raise ValueError(f"data set {label_names!r} has no label map of {path} of {names!r}")
        record["sem_seg_file_name"] = maps[path]
    return records
