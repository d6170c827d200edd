"""Registration of COCO panoptic with semantic label maps.

Detectron2 registers ``coco_2017_{train,val}_panoptic`` itself; its records lack the semantic maps
and its metadata does not fit the COCO and semantic evaluators. The names here are Mask2Former's.
"""

import os
from functools import partial

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from vitadapter_d2.data.datasets.registration import (
    Category,
    PanopticPaths,
    load_panoptic_records,
    panoptic_metadata,
    register_once,
)

COCO_PANOPTIC_CATEGORIES = tuple(
    Category(c["id"], c["name"], tuple(c["color"]), bool(c["isthing"])) for c in COCO_CATEGORIES
)


def coco_panoptic_paths(root: str, split: str) -> PanopticPaths:
    """Return the paths of ``train`` or ``val`` of COCO 2017 below the data root."""
    coco = os.path.join(root, "coco")
    return PanopticPaths(
        images=os.path.join(coco, f"{split}2017"),
        panoptic_json=os.path.join(coco, "annotations", f"panoptic_{split}2017.json"),
        panoptic=os.path.join(coco, f"panoptic_{split}2017"),
        semantic=os.path.join(coco, f"panoptic_semseg_{split}2017"),
        instances_json=os.path.join(coco, "annotations", f"instances_{split}2017.json"),
    )


def register_coco(root: str) -> None:
    """Register ``coco_2017_{train,val}_panoptic_with_sem_seg``.

    Args:
        root: the data root; nothing need exist there yet.
    """
    for split in ("train", "val"):
        paths = coco_panoptic_paths(root, split)
        register_once(
            f"coco_2017_{split}_panoptic_with_sem_seg",
            partial(load_panoptic_records, paths, COCO_PANOPTIC_CATEGORIES),
            evaluator_type="coco_panoptic_seg",
            **panoptic_metadata(COCO_PANOPTIC_CATEGORIES, paths),
        )
