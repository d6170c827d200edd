"""Conversions of downloaded annotations into the label maps that the data sets expect.

What exists is complete, so an interrupted run can be started again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vitadapter_d2.data.checking.coco import ranges
from vitadapter_d2.data.checking.findings import refuse
from vitadapter_d2.data.checking.panoptic import check_panoptic
from vitadapter_d2.data.coco_format import read_json, rgb_to_ids
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.files import replacing, write_image
from vitadapter_d2.labels import read_labels

IGNORE_LABEL = 255


@dataclass(frozen=True)
class Prepared:
    """What a conversion left: files written now, and label maps that the split has in all."""

    written: int
    total: int


def panoptic_to_semantic(
    panoptic_json: Path,
    panoptic_root: Path,
    semantic_root: Path,
    contiguous_id: Mapping[int, int],
    *,
    workers: int | None = None,
    title: str | None = None,
) -> Prepared:
    """Write one semantic PNG file per panoptic one; pixels without a segment become 255.

    Those that exist already are skipped.

    Args:
        panoptic_json: annotations in COCO's panoptic format.
        panoptic_root: folder of the panoptic PNG files.
        semantic_root: folder to write to.
        contiguous_id: category id in the annotations -> value in the semantic files, below 255.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or has an id without segment or a category without a
            contiguous id.
    """
    content = read_json(panoptic_json)
    refuse(check_panoptic(content), panoptic_json)
    annotations = content["annotations"]
    semantic_root.mkdir(parents=True, exist_ok=True)
    convert = partial(_write_semantic, panoptic_root, semantic_root, dict(contiguous_id))
    return Prepared(sum(parallel_map(convert, annotations, workers, title)), len(annotations))


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
    ids = rgb_to_ids(read_picture(source, "RGB"))
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
) -> Prepared:
    """Write label maps with every value lowered by one; 0, "other", becomes 255.

    Args:
        source_root: folder of PNG files with values in [0, num_classes].
        target_root: folder to write to.
        num_classes: at most 255.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if there are no PNG files.
        ValueError: if a file has a value out of range.
    """
    pairs = [(source, target_root / source.name) for source in find_files(source_root, "*.png")]
    mapping = {value: value - 1 for value in range(1, num_classes + 1)}
    return convert_labels(pairs, {0: IGNORE_LABEL, **mapping}, workers=workers, title=title)


def convert_labels(
    pairs: Sequence[tuple[Path, Path]],
    mapping: Mapping[int, int],
    *,
    allow_palette: bool = False,
    workers: int | None = None,
    title: str | None = None,
) -> Prepared:
    """Write label maps with other values; those that exist already are skipped.

    Args:
        pairs: files to read and to write.
        mapping: value read -> value written, in [0, 255].
        allow_palette: see ``read_labels``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        ValueError: if a file has a value that the mapping lacks.
    """
    convert = partial(_write_converted, dict(mapping), allow_palette)
    return Prepared(sum(parallel_map(convert, pairs, workers, title)), len(pairs))


def _write_converted(mapping: dict[int, int], allow_palette: bool, pair: tuple[Path, Path]) -> bool:
    source, target = pair
    if target.exists():
        return False
    write_image(target, map_labels(read_labels(source, allow_palette), mapping, source))
    return True


def map_labels(labels: np.ndarray, mapping: Mapping[int, int], source: object) -> np.ndarray:
    """Replace every value of a label map.

    Args:
        labels: ``(H, W)`` of whole numbers.
        mapping: non-negative value -> value in [0, 255].
        source: where the labels come from, for the message.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        ValueError: if a value is not in the mapping.
    """
    table = np.full(max(mapping) + 2, -1, np.int16)  # the last entry stands for all that is beyond
    table[list(mapping)] = list(mapping.values())
    converted = table[np.clip(labels.astype(np.intp), -1, len(table) - 1)]
    is_unknown = converted < 0
    if is_unknown.any():
        raise ValueError(
            f"{source} has value {labels[is_unknown][0]}, legal ones are {ranges(mapping)}"
        )
    return converted.astype(np.uint8)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder in the order of their names.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"no {pattern} in {folder}")
    return files


def read_png(path: Path) -> np.ndarray:
    """Read a PNG file as it is: ``(H, W)`` or ``(H, W, 3)`` in OpenCV's order BGR.

    Raises:
        FileNotFoundError: if it does not exist or cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FileNotFoundError(f"{path} does not exist or is no image")
    return image


def read_picture(path: Path, mode: str) -> np.ndarray:
    """Read an image in one of Pillow's modes, such as ``"RGB"`` or ``"L"``.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no image or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except OSError as error:  # Pillow's, of a file that ends too soon, does not name it
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all."""
    with replacing(path, "w") as file:
        file.write(json.dumps(content))  # several times faster than json.dump
