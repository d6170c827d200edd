"""Writing the generated data set "shapes" in COCO layout: images, instances, panoptic, semantic.

The set needs no download and is made in seconds, so that every part of the project, from loader
to evaluator, can be run and tested on a bare machine.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vitadapter_d2.data.coco_format import describe_mask, encode_mask, ids_to_rgb
from vitadapter_d2.data.datasets.shapes_categories import (
    SHAPES_STUFF,
    SHAPES_THINGS,
    StuffCategory,
    ThingCategory,
)
from vitadapter_d2.data.datasets.shapes_render import LEVELS, draw_scene
from vitadapter_d2.data.parallel import parallel_map

SPLITS = ("train", "val")
FORMAT_VERSION = 1
"""Raised whenever the same parameters give other files, so that old folders are made anew."""

_PARAMETERS_FILE = "shapes.json"
_FOLDERS = ("images/{}", "panoptic_{}", "semantic_{}")
_FASTEST_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]
_CATEGORIES: tuple[ThingCategory | StuffCategory, ...] = (*SHAPES_THINGS, *SHAPES_STUFF)
_CONTIGUOUS_ID = {c.id: i for i, c in enumerate(_CATEGORIES)}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShapesSpec:
    """The parameters that determine a generated set, to the byte with the same OpenCV.

    Args:
        train: number of training images, >= 1.
        val: number of held-out images, >= 1; they come from another random stream.
        size: side of the images in pixels, 64 to 1024.
        level: ``"easy"`` (class = outline and pattern) or ``"hard"`` (class = outline).
        seed: >= 0.
        max_things: things in an image, 2 to 20.

    Raises:
        ValueError: if a value is out of range.
    """

    train: int = 1500
    val: int = 60
    size: int = 128
    level: str = "easy"
    seed: int = 0
    max_things: int = 7

    def __post_init__(self) -> None:
        limits = {
            "train": (1, 999_999),
            "val": (1, 999_999),
            "size": (64, 1024),
            "seed": (0, 2**32 - 1),
            "max_things": (2, 20),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {self.level!r}")


def generate(
    root: str | os.PathLike[str],
    spec: ShapesSpec | None = None,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> bool:
    """Make the data set under ``root`` unless it is already there with the same parameters.

    It is written beside ``root`` under a temporary name and renamed when it is complete.

    Args:
        root: the folder to make. An older or damaged generated set there is replaced.
        spec: what to make; the default set if None.
        workers: number of processes; 0 works in this one, None takes one per core, at most 8.
        progress: show a progress bar.

    Returns:
        True if the set was made, False if a complete one was found.

    Raises:
        ValueError: if ``root`` holds anything else than a generated set.
    """
    root, spec = Path(root).absolute(), spec or ShapesSpec()
    if is_complete(root, spec):
        return False
    if root.exists() and not (root / _PARAMETERS_FILE).exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} exists and is no generated shapes data set (it has no {_PARAMETERS_FILE}); "
            "remove it or choose another folder"
        )
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)  # left by a run that was stopped
    for split in SPLITS:
        for folder in _FOLDERS:
            (partial_root / folder.format(split)).mkdir(parents=True)
    (partial_root / "annotations").mkdir()
    for split in SPLITS:
        _write_split(partial_root, spec, split, workers, progress)
    _write_json(partial_root / _PARAMETERS_FILE, _parameters(spec))
    if root.exists():
        shutil.rmtree(root)
    partial_root.rename(root)
    logger.info("Made %d training and %d held-out images in %s", spec.train, spec.val, root)
    return True


def is_complete(root: str | os.PathLike[str], spec: ShapesSpec) -> bool:
    """Tell whether ``root`` holds the set of ``spec`` with none of its files missing."""
    root = Path(root)
    try:
        if json.loads((root / _PARAMETERS_FILE).read_text()) != _parameters(spec):
            return False
        return all(
            len(os.listdir(root / folder.format(split))) == getattr(spec, split)
            for split in SPLITS
            for folder in _FOLDERS
        ) and len(os.listdir(root / "annotations")) == 2 * len(SPLITS)
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _parameters(spec: ShapesSpec) -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, **asdict(spec)}


def _write_split(
    root: Path, spec: ShapesSpec, split: str, workers: int | None, progress: bool
) -> None:
    count = getattr(spec, split)
    write = partial(_write_image, root, spec, split)
    title = f"shapes {split}" if progress else None
    instances: dict[str, list] = {"images": [], "annotations": []}
    panoptic: dict[str, list] = {"images": [], "annotations": []}
    for image, objects, segments in parallel_map(write, range(count), workers, title):
        instances["images"].append(image)
        panoptic["images"].append(image)
        first_id = len(instances["annotations"]) + 1
        instances["annotations"] += [{"id": first_id + i, **o} for i, o in enumerate(objects)]
        panoptic["annotations"].append(
            {"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments}
        )
    annotations = root / "annotations"
    categories = _categories()
    things = [c for c in categories if c["isthing"]]
    info = {"description": "shapes: a data set made by datasets/make_shapes.py"}
    _write_json(
        annotations / f"instances_{split}.json", {"info": info, **instances, "categories": things}
    )
    _write_json(
        annotations / f"panoptic_{split}.json", {"info": info, **panoptic, "categories": categories}
    )


def _write_image(
    root: Path, spec: ShapesSpec, split: str, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw and write one image and its label maps.

    Returns:
        The image entry, the object annotations (without ``id``) and the panoptic segments.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    scene = draw_scene(rng, index, spec.size, spec.max_things, spec.level)
    image_id = index + 1
    name = f"{image_id:06d}.png"
    masks = [scene.owner == k for k in range(len(scene.categories))]
    # An odd factor keeps the ids distinct; its large steps fill all three bytes.
    segments = [
        {"id": k * 2_654_435 % 2**24, "category_id": category.id, **describe_mask(mask)}
        for k, (category, mask) in enumerate(zip(scene.categories, masks, strict=True), start=1)
    ]
    panoptic = np.array([s["id"] for s in segments])[scene.owner]
    semantic = np.array([_CONTIGUOUS_ID[c.id] for c in scene.categories])[scene.owner]
    _write_png(root / f"images/{split}" / name, scene.image[..., ::-1])  # OpenCV writes BGR
    _write_png(root / f"panoptic_{split}" / name, ids_to_rgb(panoptic)[..., ::-1])
    _write_png(root / f"semantic_{split}" / name, semantic)
    objects = [
        {
            "image_id": image_id,
            **{key: value for key, value in segment.items() if key != "id"},
            "segmentation": encode_mask(mask),
        }
        for segment, mask, category in zip(segments, masks, scene.categories, strict=True)
        if isinstance(category, ThingCategory)
    ]
    image = {"id": image_id, "file_name": name, "height": spec.size, "width": spec.size}
    return image, objects, segments


def _categories() -> list[dict[str, Any]]:
    return [
        {
            "id": c.id,
            "name": c.name,
            "supercategory": "thing" if isinstance(c, ThingCategory) else "stuff",
            "isthing": int(isinstance(c, ThingCategory)),
            "color": list(c.color),
        }
        for c in _CATEGORIES
    ]


def _write_png(path: Path, array: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(array, dtype=np.uint8), _FASTEST_PNG):
        raise OSError(f"could not write {path}")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
