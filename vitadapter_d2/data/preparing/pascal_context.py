"""Label maps of Pascal Context, 59 classes, from the PASCAL in Detail annotations."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from vitadapter_d2.data.datasets.pascal_context import pascal_context_paths
from vitadapter_d2.data.datasets.pascal_context_categories import PASCAL_CONTEXT_CATEGORIES
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import (
    IGNORE_LABEL,
    Prepared,
    convert_labels,
    map_labels,
)
from vitadapter_d2.files import write_image

Json = dict[str, Any]
_DETAIL = {0: IGNORE_LABEL} | {raw: i for i, (raw, _) in enumerate(PASCAL_CONTEXT_CATEGORIES)}


def prepare_pascal_context(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write label maps with values 0 to 58, 255 where there is background.

    Made of ``VOC2010/trainval_merged.json``, or of what mmsegmentation's converter made of it:
    ``SegmentationClassContext`` (0 = background, 1 to 59) and ``ImageSets/SegmentationContext``.

    Args:
        root: the data root.
        split: ``"train"`` or ``"val"``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if neither is there, or a label map that is listed.
        ValueError: if an annotation has another category.
    """
    base, target_root = Path(root, "VOC2010"), Path(pascal_context_paths(root, split).labels)
    listing = base / "ImageSets" / "SegmentationContext" / f"{split}.txt"
    if listing.is_file():
        names = listing.read_text(encoding="utf-8").split()
        maps = base / "SegmentationClassContext"
        pairs = [(maps / f"{name}.png", target_root / f"{name}.png") for name in names]
        mapping = {0: IGNORE_LABEL} | {i + 1: i for i in range(len(PASCAL_CONTEXT_CATEGORIES))}
        return convert_labels(pairs, mapping, workers=workers, title=title)
    return _from_json(base / "trainval_merged.json", split, target_root, workers, title)


def _from_json(
    source: Path, split: str, target_root: Path, workers: int | None, title: str | None
) -> Prepared:
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    content = json.loads(source.read_text(encoding="utf-8"))
    try:
        images = [image for image in content["images"] if image["phase"] == split]
        segments = defaultdict(list)
        for segment in content["annos_segmentation"]:
            segments[segment["image_id"]].append(segment)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source} is no PASCAL in Detail file, it lacks {error}") from error
    tasks = [
        (image, segments[image["image_id"]])
        for image in images
        if not _target(target_root, image).exists()
    ]
    write = partial(_write_map, source, target_root)
    return Prepared(sum(parallel_map(write, tasks, workers, title)), len(images))


def _target(target_root: Path, image: Json) -> Path:
    return target_root / f"{Path(image['file_name']).stem}.png"


def _write_map(source: Path, target_root: Path, task: tuple[Json, list[Json]]) -> bool:
    image, segments = task
    detail = np.zeros((image["height"], image["width"]), np.int32)
    for segment in segments:
        detail[coco_mask.decode(segment["segmentation"]) > 0] = segment["category_id"]
    name = f"{source}, image {image['file_name']},"
    write_image(_target(target_root, image), map_labels(detail, _DETAIL, name))
    return True
