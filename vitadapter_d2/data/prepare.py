"""Conversions of downloaded annotations into the label maps that the data sets expect.

What exists is complete, so an interrupted run can be started again.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vitadapter_d2.data.coco_format import rgb_to_ids
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.files import replacing, write_image

IGNORE_LABEL = 255


def panoptic_to_semantic(
    panoptic_json: Path,
    panoptic_root: Path,
    semantic_root: Path,
    contiguous_id: Mapping[int, int],
    *,
    workers: int | None = None,
    title: str | None = None,
) -> int:
    """Write one semantic PNG file per panoptic one; pixels without a segment become 255.

    Args:
        panoptic_json: annotations in COCO's panoptic format.
        panoptic_root: folder of the panoptic PNG files.
        semantic_root: folder to write to.
        contiguous_id: category id in the annotations -> value in the semantic files, below 255.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Returns:
        The number of files written; those that exist already are skipped.

    Raises:
        ValueError: if a file has an id without segment or a category without a contiguous id.
    """
    annotations = json.loads(panoptic_json.read_text(encoding="utf-8"))["annotations"]
    semantic_root.mkdir(parents=True, exist_ok=True)
    convert = partial(_write_semantic, panoptic_root, semantic_root, dict(contiguous_id))
    return sum(parallel_map(convert, annotations, workers, title))


def _write_semantic(
    panoptic_root: Path,
    semantic_root: Path,
    contiguous_id: dict[int, int],
    annotation: dict[str, Any],
) -> bool:
    target = semantic_root / annotation["file_name"]
    if target.exists():
        return False
    source = panoptic_root / annotation["file_name"]
    ids = rgb_to_ids(read_png(source)[..., ::-1])
    semantic = np.full(ids.shape, IGNORE_LABEL, np.uint8)
    is_known = ids == 0
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        if category not in contiguous_id:
            legal = sorted(contiguous_id)
            raise ValueError(f"{source} has category {category}, legal ones are {legal}")
        inside = ids == segment["id"]
        semantic[inside] = contiguous_id[category]
        is_known |= inside
    if not is_known.all():
        raise ValueError(f"{source} has segment id {ids[~is_known][0]}, which its json lacks")
    write_image(target, semantic)
    return True


def shift_labels(
    source_root: Path,
    target_root: Path,
    num_classes: int,
    *,
    workers: int | None = None,
    title: str | None = None,
) -> int:
    """Write label maps with every value lowered by one; 0, "other", becomes 255.

    Args:
        source_root: folder of PNG files with values in [0, num_classes].
        target_root: folder to write to.
        num_classes: at most 255.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Returns:
        The number of files written; those that exist already are skipped.

    Raises:
        FileNotFoundError: if there are no PNG files.
        ValueError: if a file has a value out of range.
    """
    sources = sorted(source_root.glob("*.png"))
    if not sources:
        raise FileNotFoundError(f"no PNG files in {source_root}")
    target_root.mkdir(parents=True, exist_ok=True)
    convert = partial(_write_shifted, target_root, num_classes)
    return sum(parallel_map(convert, sources, workers, title))


def _write_shifted(target_root: Path, num_classes: int, source: Path) -> bool:
    target = target_root / source.name
    if target.exists():
        return False
    labels = read_png(source)
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.max() > num_classes:
        raise ValueError(
            f"{source} must hold one channel with values in [0, {num_classes}], got shape "
            f"{labels.shape}, highest value {labels.max()}"
        )
    write_image(target, labels - np.uint8(1))  # 0 wraps around to 255
    return True


def read_png(path: Path) -> np.ndarray:
    """Read a PNG file as it is: ``(H, W)`` or ``(H, W, 3)`` in OpenCV's order BGR.

    Raises:
        FileNotFoundError: if it does not exist or cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FileNotFoundError(f"{path} does not exist or is no image")
    return image


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all."""
    with replacing(path, "w") as file:
        file.write(json.dumps(content))  # several times faster than json.dump
