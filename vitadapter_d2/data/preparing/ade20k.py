"""ADE20K's semantic label maps for training, and its panoptic and instance annotations.

The protocol of the latter is that of Mask2Former (MIT), so that results compare: stuff comes from
the semantic maps, things are pasted over it from the instance maps, and the area and box of a stuff
segment are those before the things are pasted.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitadapter_d2.data.coco_format import describe_mask, encode_mask, ids_to_rgb
from vitadapter_d2.data.datasets.ade20k import ADE20K_PANOPTIC_CATEGORIES, ade20k_paths
from vitadapter_d2.data.datasets.ade20k_categories import ADE20K_CATEGORIES
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import (
    Prepared,
    find_files,
    read_picture,
    read_png,
    shift_labels,
    write_json,
)
from vitadapter_d2.files import write_image

_THINGS = [i for i, c in enumerate(ADE20K_PANOPTIC_CATEGORIES) if c.is_thing]
"""Contiguous id of category n + 1 of the instance benchmark."""

Annotation = dict[str, Any]


def prepare_ade20k_semantic(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write ``annotations_detectron2`` (0 to 149, 255) from ``annotations`` (0 to 150)."""
    target = Path(ade20k_paths(root, split).semantic)
    source = target.parents[1] / "annotations" / target.name
    return shift_labels(source, target, len(ADE20K_CATEGORIES), workers=workers, title=title)


def prepare_ade20k(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write the panoptic PNG files, the panoptic JSON and the instance JSON of a split.

    An interrupted run leaves PNG files that the next one takes as they are.

    Args:
        root: folder that holds ``ADEChallengeData2016`` with ``images``, ``annotations`` and
            ``annotations_instance``.
        split: ``"train"`` or ``"val"``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if label maps are missing.
        ValueError: if a label map has a value out of range.
    """
    paths = ade20k_paths(root, split)
    panoptic_json, instances_json = Path(paths.panoptic_json), Path(paths.instances_json)
    base, folder = panoptic_json.parent, Path(paths.images).name
    semantic_files = find_files(base / "annotations" / folder, "*.png")
    if panoptic_json.exists() and instances_json.exists():
        return Prepared(0, len(semantic_files))
    convert = partial(_convert_image, base / "annotations_instance" / folder, Path(paths.panoptic))
    tasks = list(enumerate(semantic_files, start=1))
    results = list(parallel_map(convert, tasks, workers, title))
    images = [image for image, _, _, _ in results]
    objects = [item for _, items, _, _ in results for item in items]
    write_json(
        instances_json,
        {
            "images": images,
            "annotations": [{"id": i, **item} for i, item in enumerate(objects, start=1)],
            "categories": [{"id": i, "name": ADE20K_CATEGORIES[i][2]} for i in _THINGS],
        },
    )
    write_json(
        panoptic_json,
        {
            "images": images,
            "annotations": [annotation for _, _, annotation, _ in results],
            "categories": [
                {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
                for c in ADE20K_PANOPTIC_CATEGORIES
            ],
        },
    )
    return Prepared(sum(is_written for *_, is_written in results), len(results))


def _convert_image(
    instance_root: Path, panoptic_root: Path, task: tuple[int, Path]
) -> tuple[Annotation, list[Annotation], Annotation, bool]:
    """Write one panoptic PNG file unless it exists.

    Returns:
        The image entry, the object annotations (without ``id``), the panoptic annotation, and
        whether the file was written.
    """
    image_id, semantic_file = task
    semantic = read_png(semantic_file)
    if semantic.ndim != 2 or semantic.max() > len(ADE20K_CATEGORIES):
        raise ValueError(
            f"{semantic_file} must hold one channel with values in [0, 150], got shape "
            f"{semantic.shape}, highest value {semantic.max()}"
        )
    ids = np.zeros(semantic.shape, np.int32)
    segments: list[Annotation] = []
    for value in np.unique(semantic):
        if value > 0 and not ADE20K_PANOPTIC_CATEGORIES[value - 1].is_thing:
            mask = semantic == value
            ids[mask] = value
            segments.append(
                {"id": int(value), "category_id": int(value) - 1, **describe_mask(mask)}
            )
    objects = []
    for number, category, mask in _things(instance_root / semantic_file.name):
        segment_id = category + 1 + 256 * number  # red says the class, green the instance
        ids[mask] = segment_id
        description = {"category_id": category, **describe_mask(mask)}
        segments.append({"id": segment_id, **description})
        objects.append({"image_id": image_id, **description, "segmentation": encode_mask(mask)})
    target = panoptic_root / semantic_file.name
    is_written = not target.exists()
    if is_written:
        write_image(target, ids_to_rgb(ids))
    height, width = semantic.shape
    image = {
        "id": image_id,
        "file_name": f"{semantic_file.stem}.jpg",
        "height": height,
        "width": width,
    }
    annotation = {
        "image_id": image_id,
        "file_name": semantic_file.name,
        "segments_info": segments,
    }
    return image, objects, annotation, is_written


def _things(instance_file: Path) -> list[tuple[int, int, np.ndarray]]:
    """Return instance number, contiguous class and mask of each object in an instance map."""
    rgb = read_picture(instance_file, "RGB")
    category_map, number_map = rgb[..., 0], rgb[..., 1]
    things = []
    for number in np.unique(number_map[number_map > 0]):
        mask = number_map == number
        categories = np.unique(category_map[mask])
        if len(categories) != 1 or not 1 <= categories[0] <= len(_THINGS):
            raise ValueError(
                f"{instance_file}: instance {number} must have one category in [1, 100], got "
                f"{categories.tolist()}"
            )
        things.append((int(number), _THINGS[categories[0] - 1], mask))
    return things
