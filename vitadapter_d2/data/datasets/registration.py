"""What the data sets share: the root folder, registering once, panoptic metadata and records."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

Record = dict[str, Any]


@dataclass(frozen=True)
class Category:
    """A class of a data set: its id in the annotation files, name, RGB colour and kind."""

    id: int
    name: str
    color: tuple[int, int, int]
    is_thing: bool


@dataclass(frozen=True)
class PanopticPaths:
    """Where the parts of one split of a panoptic data set lie.

    Attributes:
        images: folder of the images.
        panoptic_json: panoptic annotations in COCO format.
        panoptic: folder of the panoptic PNG files, id = R + 256 G + 65536 B.
        semantic: folder of the semantic PNG files, contiguous ids, 255 = ignore.
        instances_json: object annotations in COCO format of the same images.
    """

    images: str
    panoptic_json: str
    panoptic: str
    semantic: str
    instances_json: str


def datasets_root() -> str:
    """Return the folder of all data sets: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_once(name: str, load: Callable[[], list[Record]], **metadata: Any) -> None:
    """Register a data set, or complete the metadata of one that is registered already.

    Neither the loader nor a metadata value that another package has set is ever replaced.
    """
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, load)
    entry = MetadataCatalog.get(name)
    for key, value in metadata.items():
        if not hasattr(entry, key):
            setattr(entry, key, value)


def panoptic_metadata(categories: Sequence[Category], paths: PanopticPaths) -> dict[str, Any]:
    """Return the metadata with which Detectron2's evaluators and Visualizer work unchanged.

    A contiguous id is the place in ``categories``, for things and stuff alike. Both id maps are
    read by the panoptic evaluator. The map and the names of stuff hold every class, because the
    semantic evaluator takes its classes from them. If the things come first, ``thing_classes``
    ends with the last of them, because the COCO evaluator expects one name per thing; else it
    holds every class, because the Visualizer indexes it by contiguous id.
    """
    names, colors = [c.name for c in categories], [list(c.color) for c in categories]
    things = [i for i, c in enumerate(categories) if c.is_thing]
    is_things_first = things == list(range(len(things)))
    last = len(things) if is_things_first else len(categories)
    return {
        "thing_classes": names[:last],
        "thing_colors": colors[:last],
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": {categories[i].id: i for i in things},
        "stuff_dataset_id_to_contiguous_id": {c.id: i for i, c in enumerate(categories)},
        "image_root": paths.images,
        "panoptic_root": paths.panoptic,
        "panoptic_json": paths.panoptic_json,
        "sem_seg_root": paths.semantic,
        "json_file": paths.instances_json,
        "ignore_label": 255,
        "label_divisor": 1000,
    }


def load_panoptic_records(paths: PanopticPaths, categories: Sequence[Category]) -> list[Record]:
    """Read a panoptic JSON file into Detectron2's records.

    Args:
        paths: where the split lies.
        categories: the classes in the order of their contiguous ids.

    Returns:
        One record per image: ``file_name, image_id, height, width, pan_seg_file_name,
        sem_seg_file_name, segments_info``, with contiguous category ids in the last.

    Raises:
        FileNotFoundError: if the JSON file does not exist.
        ValueError: if it names an image or a category that is not known.
    """
    if not os.path.isfile(paths.panoptic_json):
        raise FileNotFoundError(
            f"{paths.panoptic_json} does not exist; datasets/README.md says how to get the data "
            "set, and DETECTRON2_DATASETS where to look for it"
        )
    content = json.loads(Path(paths.panoptic_json).read_text(encoding="utf-8"))
    contiguous = {category.id: index for index, category in enumerate(categories)}
    things = {category.id for category in categories if category.is_thing}
    images = {image["id"]: image for image in content["images"]}
    try:
        return [
            _panoptic_record(
                paths,
                images[annotation["image_id"]],
                annotation["file_name"],
                [
                    {
                        **segment,
                        "category_id": contiguous[segment["category_id"]],
                        "isthing": segment["category_id"] in things,
                    }
                    for segment in annotation["segments_info"]
                ],
            )
            for annotation in content["annotations"]
        ]
    except KeyError as error:
        raise ValueError(
            f"{paths.panoptic_json} has no key, image or category {error.args[0]!r}; legal "
            f"categories are {sorted(contiguous)}"
        ) from error


def _panoptic_record(
    paths: PanopticPaths, image: Record, label_file: str, segments_info: list[Record]
) -> Record:
    return {
        "file_name": os.path.join(paths.images, image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(paths.panoptic, label_file),
        "sem_seg_file_name": os.path.join(paths.semantic, label_file),
        "segments_info": segments_info,
    }
