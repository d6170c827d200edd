"""Panoptic and instance annotations of Cityscapes, from its ``*_instanceIds.png``.

The panoptic files are those of cityscapesscripts' (MIT) ``createPanopticImgs``: a segment's id is
the value of its pixels, label id x 1000 + number for an object, the label id for stuff and for a
group of objects, which is a crowd. What the benchmark does not evaluate is 0.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitadapter_d2.data.coco_format import describe_mask, encode_mask, ids_to_rgb
from vitadapter_d2.data.datasets.cityscapes import (
    CITYSCAPES_SEMANTIC_CATEGORIES,
    cityscapes_paths,
)
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import Prepared, find_files, write_json
from vitadapter_d2.files import write_image
from vitadapter_d2.labels import read_labels

_SUFFIX = "_gtFine_instanceIds.png"
_OBJECT_BASE = 1000
_NUM_LABELS = 34
_IS_THING = {c.id: c.is_thing for c in CITYSCAPES_SEMANTIC_CATEGORIES}

Annotation = dict[str, Any]


def prepare_cityscapes_panoptic(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write the panoptic PNG files, the panoptic JSON and the instance JSON of a split.

    Args:
        root: folder that holds ``cityscapes/gtFine``.
        split: ``"train"`` or ``"val"``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if there are no label maps.
        ValueError: if a label map has a value that is no label.
    """
    paths = cityscapes_paths(root, split)
    sources = find_files(Path(paths.semantic), f"*/*{_SUFFIX}")
    panoptic_json, instances_json = Path(paths.panoptic_json), Path(paths.instances_json)
    if panoptic_json.exists() and instances_json.exists():
        return Prepared(0, len(sources))
    convert = partial(_convert_image, Path(paths.panoptic))
    results = list(parallel_map(convert, list(enumerate(sources, start=1)), workers, title))
    objects = [item for _, _, items, _ in results for item in items]
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
        for c in CITYSCAPES_SEMANTIC_CATEGORIES
    ]
    write_json(
        instances_json,
        {
            "images": [{**image, **_image_file(image)} for image, _, _, _ in results],
            "annotations": [{"id": i, **item} for i, item in enumerate(objects, start=1)],
            "categories": [category for category in categories if category["isthing"]],
        },
    )
    write_json(
        panoptic_json,
        {
            "images": [{**image, "id": _stem(image)} for image, _, _, _ in results],
            "annotations": [annotation for _, annotation, _, _ in results],
            "categories": categories,
        },
    )
    return Prepared(sum(is_written for *_, is_written in results), len(sources))


def _stem(image: Annotation) -> str:
    return image["file_name"].removesuffix("_gtFine_leftImg8bit.png")


def _image_file(image: Annotation) -> Annotation:
    """The name below ``leftImg8bit/<split>``; cityscapesscripts writes one that does not exist."""
    stem = _stem(image)
    return {"file_name": f"{stem.partition('_')[0]}/{stem}_leftImg8bit.png"}


def _convert_image(
    panoptic_root: Path, task: tuple[int, Path]
) -> tuple[Annotation, Annotation, list[Annotation], bool]:
    """Write one panoptic PNG file unless it exists.

    Returns:
        The image entry, the panoptic annotation, the objects (without ``id``), and whether the
        file was written.
    """
    image_id, source = task
    ids = read_labels(source).astype(np.int32)
    segments: list[Annotation] = []
    objects: list[Annotation] = []
    for value in np.unique(ids).tolist():
        label = value // _OBJECT_BASE if value >= _OBJECT_BASE else value
        if not 0 <= label < _NUM_LABELS:
            raise ValueError(f"{source} has value {value}, which is no label of Cityscapes")
        mask = ids == value
        if label not in _IS_THING:
            ids[mask] = 0
            continue
        is_crowd = _IS_THING[label] and value < _OBJECT_BASE
        segment = {"category_id": label, **describe_mask(mask), "iscrowd": int(is_crowd)}
        segments.append({"id": value, **segment})
        if _IS_THING[label]:
            objects.append({"image_id": image_id, **segment, "segmentation": encode_mask(mask)})
    stem = source.name.removesuffix(_SUFFIX)
    target = panoptic_root / f"{stem}_gtFine_panoptic.png"
    is_written = not target.exists()
    if is_written:
        write_image(target, ids_to_rgb(ids))
    height, width = ids.shape
    image = {
        "id": image_id,
        "file_name": f"{stem}_gtFine_leftImg8bit.png",
        "height": height,
        "width": width,
    }
    annotation = {"image_id": stem, "file_name": target.name, "segments_info": segments}
    return image, annotation, objects, is_written
