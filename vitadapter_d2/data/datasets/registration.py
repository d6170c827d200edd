"""What the data sets share: the root folder, registering once, metadata and records."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from vitadapter_d2.data.checking.findings import refuse
from vitadapter_d2.data.checking.panoptic import check_panoptic
from vitadapter_d2.data.coco_format import read_json

Record = dict[str, Any]

_ADVICE = (
    "datasets/README.md says how to get and prepare the data set, and DETECTRON2_DATASETS where to "
    "look for it"
)


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


@dataclass(frozen=True)
class SemanticPaths:
    """Where the images and label maps of one split lie.

    A file's name without its suffix says which image and which label map belong together.

    Attributes:
        images: folder of the images.
        labels: folder of the label maps, contiguous classes, 255 = ignore.
        image_suffix: end of the images' names.
        label_suffix: end of the label maps' names.
        shares_images: the folder holds images of other splits too, which have no label map here.
    """

    images: str
    labels: str
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    shares_images: bool = False


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


def replace_loader(name: str, load: Callable[[], list[Record]]) -> None:
    """Give a registered data set another loader; its metadata stay."""
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)


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
        ValueError: if something in it has no meaning, such as an id that occurs more than once:
            every kind is named. If it names a category that is not among ``categories``.
    """
    if not os.path.isfile(paths.panoptic_json):
        raise FileNotFoundError(f"{paths.panoptic_json} does not exist; {_ADVICE}")
    content = read_json(paths.panoptic_json)
    refuse(check_panoptic(content), paths.panoptic_json)
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


def register_semantic(
    name: str, paths: SemanticPaths, categories: Sequence[Category], **metadata: Any
) -> None:
    """Register a data set of label maps, or complete the metadata of one of that name.

    Args:
        name: of the data set.
        paths: where it lies; nothing need exist there yet.
        categories: in the order of the values in the label maps.
        metadata: what differs from the usual, such as another ``ignore_label``.
    """
    usual = {
        "evaluator_type": "sem_seg",
        "image_root": paths.images,
        "sem_seg_root": paths.labels,
        "stuff_classes": [c.name for c in categories],
        "stuff_colors": [list(c.color) for c in categories],
        "stuff_dataset_id_to_contiguous_id": {c.id: i for i, c in enumerate(categories)},
        "ignore_label": 255,
    }
    register_once(name, partial(load_semantic_records, paths), **{**usual, **metadata})


def load_semantic_records(paths: SemanticPaths) -> list[Record]:
    """Pair images and label maps by name, in the order of their names.

    Unlike Detectron2's ``load_sem_seg`` it leaves no image out silently.

    Returns:
        One record per label map: ``file_name, sem_seg_file_name``.

    Raises:
        FileNotFoundError: if there are no label maps, or an image or a label map lacks its partner.
    """
    images = _stems(paths.images, paths.image_suffix)
    labels = _stems(paths.labels, paths.label_suffix)
    if not labels:
        raise FileNotFoundError(f"no *{paths.label_suffix} in {paths.labels}; {_ADVICE}")
    for stem in sorted(labels - images):
        missing = os.path.join(paths.images, stem + paths.image_suffix)
        label_file = os.path.join(paths.labels, stem + paths.label_suffix)
        raise FileNotFoundError(f"{missing} does not exist, the image of {label_file}; {_ADVICE}")
    for stem in sorted(set() if paths.shares_images else images - labels):
        missing = os.path.join(paths.labels, stem + paths.label_suffix)
        image_file = os.path.join(paths.images, stem + paths.image_suffix)
        raise FileNotFoundError(
            f"{missing} does not exist, the label map of {image_file} "
            f"({len(images - labels)} of {len(images)} images have none); {_ADVICE}"
        )
    return [
        {
            "file_name": os.path.join(paths.images, stem + paths.image_suffix),
            "sem_seg_file_name": os.path.join(paths.labels, stem + paths.label_suffix),
        }
        for stem in sorted(labels)
    ]


def _stems(folder: str, suffix: str) -> set[str]:
    """Names in a folder that end with the suffix, without it; none if there is no folder."""
    if not os.path.isdir(folder):
        return set()
    names = {name for name in os.listdir(folder) if not name.startswith(".")}
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
