"""Where the parts of a user's data set lie: the layouts that annotation tools write."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitadapter_d2.data.checking.coco import check_parts
from vitadapter_d2.data.checking.findings import refuse
from vitadapter_d2.data.coco_format import read_json

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}
LABEL_FOLDERS = ("labels", "annotations", "masks")
CLASS_TABLE = "_classes.csv"
"""Roboflow's names of the classes of label maps, which lie beside the images as ``*_mask.png``."""
MADE_FOLDER = "own_data"
"""Name of the folder for what is made of a user's data, which may lie among them: not searched."""
# Of other tasks on the same images.
_OTHER_TASKS = {"captions", "keypoints"}
_STUFF_OF_COCO = re.compile(r"stuff_(train|val)\d{4}", re.ASCII)
_OTHER_PARTS = {"test", "testing", "minival", "unlabeled"}

_LOOKED_FOR = {
    "instances": "COCO annotations of objects (train/_annotations.coco.json, "
    "annotations/instances_train*.json, annotations/train.json and the like)",
    "panoptic": "COCO panoptic annotations (annotations/panoptic_train*.json and the like)",
    "semantic": "images and label maps (images/train with labels/train, annotations/train or "
    "masks/train; train/images with train/labels and the like; Roboflow's train/_classes.csv)",
}


@dataclass(frozen=True)
class OwnSource:
    """What the user said about where the data are.

    Attributes:
        folder: of the whole data set.
        train_json: annotations in COCO's format instead.
        val_json: annotations to evaluate on.
        images: folder of the images, where it cannot be guessed.
        val_images: the same of the val part; None for ``images``.
        val_fraction: share of the training images to hold out if there is no val part.

    Raises:
        ValueError: nothing, or something contradictory.
    """

    folder: Path | None = None
    train_json: Path | None = None
    val_json: Path | None = None
    images: Path | None = None
    val_images: Path | None = None
    val_fraction: float | None = None

    def __post_init__(self) -> None:
        if self.folder and self.train_json:
            raise ValueError("--data and --train-json exclude each other")
        if not (self.folder or self.train_json or self.val_json):
            raise ValueError("own data need --data DIR, or --train-json FILE")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction must be in (0, 1), got {self.val_fraction}")
        for path in (self.folder, self.images, self.val_images):
            if path and not path.is_dir():
                raise FileNotFoundError(f"there is no folder {path}")
        for path in (self.train_json, self.val_json):
            if path and not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")

    @property
    def title(self) -> str:
        """What messages call it."""
        return str(self.folder or self.train_json or self.val_json)


@dataclass(frozen=True)
class Place:
    """Where one part of a data set lies.

    Attributes:
        annotations: a JSON file, or the folder of the label maps.
        images: folders that may have the images, likeliest first.
    """

    annotations: Path
    images: tuple[Path, ...]


def find_places(source: OwnSource, kind: str) -> dict[str, Place]:
    """Finds annotations of one kind.

    Args:
        source: where to look.
        kind: one of :data:`KINDS <vitadapter_d2.data.own.classes.KINDS>`.

    Returns:
        Under ``train`` and ``val``, as far as there are such parts; an undivided data set is
        ``train``. Empty if there is nothing of this kind.

    Raises:
        ValueError: several files could be meant.
    """
    found: dict[str, Place] = {}
    if source.folder:
        find = _label_folders if kind == "semantic" else _annotation_files
        found = find(source.folder, kind)
    for part, file in (("train", source.train_json), ("val", source.val_json)):
        if file and kind == _kind_of(file):
            found[part] = Place(file, ())
    return {part: _with_image_folders(place, part, source) for part, place in found.items()}


def nothing_found(source: OwnSource, kind: str) -> str:
    """The sentence that says what was looked for and what is there."""
    if not source.folder:
        return f"{source.title} has no {_LOOKED_FOR[kind]}"
    entries = sorted(p.name + "/" * p.is_dir() for p in source.folder.iterdir())
    there = ", ".join(entries[:8]) + (" ..." if len(entries) > 8 else "") or "nothing"
    hint = ""
    if any(name.endswith((".yaml", ".yml")) for name in entries):
        hint = "; its YAML file looks like YOLO's format: export the data as COCO JSON instead"
    return f"{source.folder} has no {_LOOKED_FOR[kind]}; it has {there}{hint}"


def read_coco(path: Path) -> dict[str, Any]:
    """A JSON file of COCO's format: ``images``, ``annotations``, ``categories``.

    Raises:
        ValueError: it is none.
    """
    content = read_json(path)
    refuse(check_parts(content, ("images", "annotations", "categories")), f"{path} as COCO's JSON")
    return content


def subfolders(base: Path, names: Iterable[str]) -> list[Path]:
    """Folders in ``base`` with one of the names, in whatever case, in the order of the names."""
    if not base.is_dir():
        return []
    there = {path.name.lower(): path for path in sorted(base.iterdir()) if path.is_dir()}
    return [there[name.lower()] for name in names if name.lower() in there]


def _kind_of(file: Path) -> str:
    annotations = read_coco(file)["annotations"]
    is_panoptic = any(isinstance(one, dict) and "segments_info" in one for one in annotations[:1])
    return "panoptic" if is_panoptic else "instances"


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _part_of(file: Path, root: Path) -> str | None:
    """``train``, ``val``, ``all`` if nothing says which, None for others."""
    for name in (file.stem, *(p.name for p in file.parents if p != root and root in p.parents)):
        words = _words(name)
        if words & _OTHER_PARTS:
            return None
        for part, aliases in PARTS.items():
            if words & set(aliases):
                return part
    return "all"


def _annotation_files(root: Path, kind: str) -> dict[str, Place]:
    candidates: dict[str, list[Path]] = {"train": [], "val": [], "all": []}
    for file in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        words, part = _words(file.stem), _part_of(file, root)
        is_panoptic = "panoptic" in words
        is_other = words & _OTHER_TASKS or _STUFF_OF_COCO.fullmatch(file.stem)
        if file.parent.name == MADE_FOLDER or is_other:
            continue
        if part and is_panoptic == (kind == "panoptic"):
            candidates[part].append(file)
    found = {part: _the_one(candidates[part], part) for part in PARTS}
    if not any(found.values()):
        found["train"] = _the_one(candidates["all"], "only")
    return {part: Place(file, ()) for part, file in found.items() if file}


def _the_one(files: Sequence[Path], part: str) -> Path | None:
    """The file that is meant; those named after objects go first, what is no COCO is passed by."""
    named = [file for file in files if "instances" in _words(file.stem)]
    files = named or files
    if len(files) > 1 or part == "only":
        files = [file for file in files if _is_coco(file)]
    if len(files) > 1:
        raise ValueError(
            f"several files could be the {part} annotations: {', '.join(map(str, files))}; say "
            "which with --train-json and --val-json"
        )
    return files[0] if files else None


def _is_coco(file: Path) -> bool:
    try:
        read_coco(file)
    except ValueError:
        return False
    return True


def _label_folders(root: Path, kind: str) -> dict[str, Place]:
    del kind
    found = {part: _label_folder(root, aliases) for part, aliases in PARTS.items()}
    if not any(found.values()):
        # Not below them, where the PNG files of panoptic segments may be.
        found["train"] = _pair(subfolders(root, ["images"]), subfolders(root, LABEL_FOLDERS), "*")
    return {part: place for part, place in found.items() if place}


def _label_folder(root: Path, aliases: Sequence[str]) -> Place | None:
    images = [p for base in subfolders(root, ["images"]) for p in subfolders(base, aliases)]
    labels = [p for base in subfolders(root, LABEL_FOLDERS) for p in subfolders(base, aliases)]
    for part in subfolders(root, aliases):
        if (part / CLASS_TABLE).is_file():
            return Place(part, (part,))
        images += subfolders(part, ["images"])
        labels += subfolders(part, LABEL_FOLDERS)
    return _pair(images, labels)


def _pair(images: Sequence[Path], labels: Sequence[Path], pattern: str = "**/*") -> Place | None:
    labels = [folder for folder in labels if _has_pictures(folder, pattern)]
    return Place(labels[0], tuple(images)) if images and labels else None


def _has_pictures(folder: Path, pattern: str) -> bool:
    names = (path.name.lower() for path in folder.glob(pattern))
    return any(name.endswith((".png", ".bmp", ".tif", ".tiff")) for name in names)


def _with_image_folders(place: Place, part: str, source: OwnSource) -> Place:
    """Adds the folders in which the images of a JSON file may lie."""
    if place.annotations.is_dir():
        return place
    given = source.val_images if part == "val" and source.val_images else source.images
    here = place.annotations.parent
    root = source.folder or (here.parent if here.name.lower() == "annotations" else here)
    name = re.sub(r"^(instances|panoptic)_", "", place.annotations.stem)
    names = [name, *PARTS[part]]
    folders = [*subfolders(given, names), given] if given else []
    folders += [here, *subfolders(here, ["images", "data"])]
    images = subfolders(root, ["images"])
    for base in (*images, root):
        folders += subfolders(base, names)
    for base in subfolders(root, names):
        folders += subfolders(base, ["images", "data"])
    folders += [*images, *subfolders(root, ["data"]), root]
    return Place(place.annotations, tuple(dict.fromkeys(folders)))
