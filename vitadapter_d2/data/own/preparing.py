"""From what a user says to a data set that can be registered."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitadapter_d2.data.datasets.registration import Category
from vitadapter_d2.data.own.classes import IGNORE_LABEL, OwnClasses, make_categories
from vitadapter_d2.data.own.dataset import OwnData, OwnPart, told
from vitadapter_d2.data.own.images import MANY
from vitadapter_d2.data.own.instances import Annotations, Entry, read_objects
from vitadapter_d2.data.own.joining import hold_out, share_classes
from vitadapter_d2.data.own.layouts import OwnSource, Place, find_places, nothing_found
from vitadapter_d2.data.own.panoptic import measured, objects_of, read_segments
from vitadapter_d2.data.own.semantic import Pair, find_classes, pair_files
from vitadapter_d2.data.preparing.label_maps import panoptic_to_semantic
from vitadapter_d2.files import replacing


def prepare_own_data(
    source: OwnSource,
    kind: str,
    folder: Path,
    *,
    needs_train: bool = True,
    evaluated: Collection[str] = (),
) -> OwnData:
    """Finds and checks a user's data; nothing of theirs is changed.

    Args:
        source: where they are.
        kind: what a model trains on. Panoptic segments serve for all kinds, things and label maps
            being made of them.
        folder: where mended annotations and such are written.
        needs_train: False for evaluation alone: a train part only tells the classes then.
        evaluated: kinds of which evaluators of a panoptic model want annotations too.

    Returns:
        The data; not registered yet.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: there are none of this kind, no val part, or they are wrong.
    """
    places = find_places(source, kind)
    if not places and (places := find_places(source, "panoptic")):
        kinds = {kind}
        of_segments = True
    else:
        kinds, of_segments = {kind, *evaluated}, kind == "panoptic"
    _check_parts(source, kind, places, needs_train)
    wanted = ("train", "val") if needs_train else ("val",)
    read = read_segments if of_segments else pair_files if kind == "semantic" else read_objects
    found = _each(places, read, wanted)
    if of_segments:
        own = _Segments(source, folder).prepare(found, kind, kinds, wanted)
    elif kind == "semantic":
        own = _label_maps(source, places, found, wanted)
    else:
        own = _of_objects(share_classes(found, source.val_fraction), folder, source, wanted)
    return replace(own, notes=(*own.notes, *_notes(source, places, found)))


def _each(
    places: Mapping[str, Place], read: Callable[[Place], Any], wanted: Collection[str]
) -> dict[str, Any]:
    """What is read of each part; files of a part that is not wanted may be missing."""
    found = {}
    for part, place in places.items():
        try:
            found[part] = read(place)
        except FileNotFoundError:
            if part in wanted or "val" not in places:
                raise
    return found


def _notes(source: OwnSource, places: Mapping[str, Place], found: Mapping[str, Any]) -> list[str]:
    notes = []
    if source.val_fraction is not None and "val" in places:
        there = f"there is a val part, {places['val'].annotations}"
        notes.append(f"--val-fraction {source.val_fraction} is not used: {there}")
    if found.keys() != places.keys():
        notes.append("files of the train part are missing: the classes are those of the val part")
    return notes


def _check_parts(
    source: OwnSource, kind: str, places: Mapping[str, Place], needs_train: bool
) -> None:
    if not places:
        raise ValueError(nothing_found(source, kind))
    if needs_train and "train" not in places:
        raise ValueError(
            f"{source.title} has a val part ({places['val'].annotations}) but none to train on: "
            "there is no part called train or training, and no --train-json"
        )
    if "val" not in places and source.val_fraction is None:
        raise ValueError(
            f"{source.title} has no part to evaluate on, only {places['train'].annotations}: add a "
            "part called val, valid or validation, give --val-json FILE, or hold out a fifth of "
            "the images with --val-fraction 0.2"
        )


def _of_objects(
    parts: Mapping[str, Annotations], folder: Path, source: OwnSource, wanted: Collection[str]
) -> OwnData:
    objects = [one for part in parts.values() for one in part.annotations if not one["iscrowd"]]
    for part, one in parts.items():
        if part in wanted and all(entry["iscrowd"] for entry in one.annotations):
            why = ": " + "; ".join(one.notes) if one.notes else ""
            raise ValueError(f"{one.source} has no objects for the {part} part{why}")
    masks = [one["segmentation"] for one in objects if "segmentation" in one]
    has_masks = len(masks) == len(objects)
    notes = [note for part in parts.values() for note in part.notes]
    if masks and not has_masks:
        without = len(objects) - len(masks)
        notes.append(f"{without} of {len(objects)} objects have no mask, so none is used")
    categories = _categories(parts["val"].categories, is_thing=True)
    classes = OwnClasses("instances", categories, has_masks)
    own = {
        part: OwnPart(str(one.root), len(one.images), json_file=_write(folder, part, one))
        for part, one in parts.items()
        if part in wanted
    }
    what = "objects with masks" if has_masks else "objects with boxes"
    counts = {part: f"{len(one.annotations)} {what}" for part, one in parts.items()}
    return OwnData(
        classes,
        own,
        has_run_lengths=any(isinstance(mask, dict) for mask in masks),
        lines=told(source, {p: one.source for p, one in parts.items()}, classes, own, counts),
        notes=tuple(dict.fromkeys(notes)),
    )


def _label_maps(
    source: OwnSource,
    places: Mapping[str, Place],
    pairs: dict[str, list[Pair]],
    wanted: Collection[str],
) -> OwnData:
    if "val" not in pairs:
        root = places["train"].images[0]
        names = [str(image.relative_to(root)) for image, _ in pairs["train"]]
        held = hold_out(names, str, source.val_fraction or 0.0)
        both = [*zip(names, pairs["train"], strict=True)]
        pairs = {
            "train": [pair for name, pair in both if name not in held],
            "val": [pair for name, pair in both if name in held],
        }
    classes, notes = find_classes(
        source.folder or Path(), [p for one in pairs.values() for p in one]
    )
    places = {part: places[part if part in places else "train"] for part in wanted}
    own = {
        part: OwnPart(
            str(place.images[0]),
            len(pairs[part]),
            pairs=tuple((str(image), str(label)) for image, label in pairs[part]),
        )
        for part, place in places.items()
    }
    found = {part: place.annotations for part, place in places.items()}
    counts = {part: f"{len(files)} label maps" for part, files in pairs.items()}
    return OwnData(classes, own, False, told(source, found, classes, own, counts), notes)


class _Segments:
    """Panoptic segments, and what is made of them.

    Args:
        source: where the data are.
        folder: where what is made is written.
    """

    def __init__(self, source: OwnSource, folder: Path) -> None:
        self.source = source
        self.folder = folder

    def prepare(
        self,
        read: Mapping[str, tuple[Annotations, Path]],
        kind: str,
        kinds: set[str],
        wanted: Collection[str],
    ) -> OwnData:
        """The data for a model of one kind and evaluators of several."""
        parts = share_classes(
            {part: annotations for part, (annotations, _) in read.items()},
            self.source.val_fraction,
        )
        parts = {part: parts[part] for part in wanted}
        pngs = {part: read.get(part, read.get("train", (None, Path())))[1] for part in parts}
        if kind == "instances":
            objects = {part: objects_of(one, pngs[part]) for part, one in parts.items()}
            return _of_objects(objects, self.folder, self.source, wanted)
        if "panoptic" in kinds:
            parts["val"] = measured(parts["val"], pngs["val"])
        is_thing = False if kind == "semantic" else None
        categories = _categories(parts["val"].categories, is_thing)
        own = {
            part: self._part(part, one, pngs[part], categories, kinds if part == "val" else {kind})
            for part, one in parts.items()
        }
        classes = OwnClasses(kind, categories)
        counts = {
            part: f"{sum(len(one['segments_info']) for one in annotations.annotations)} segments"
            for part, annotations in parts.items()
        }
        found = {part: one.source for part, one in parts.items()}
        notes = tuple(note for one in parts.values() for note in one.notes)
        return OwnData(classes, own, False, told(self.source, found, classes, own, counts), notes)

    def _part(
        self,
        part: str,
        annotations: Annotations,
        pngs: Path,
        categories: tuple[Category, ...],
        kinds: set[str],
    ) -> OwnPart:
        own = OwnPart(str(annotations.root), len(annotations.images))
        file = _write(self.folder, f"panoptic_{part}", annotations)
        semantic = objects = ""
        if "semantic" in kinds:
            semantic = self._label_maps(Path(file), pngs, annotations, categories)
        if "semantic" in kinds and "panoptic" not in kinds:
            names = {image["id"]: image["file_name"] for image in annotations.images}
            pairs = [
                (str(annotations.root / names[one["image_id"]]), f"{semantic}/{one['file_name']}")
                for one in annotations.annotations
            ]
            return replace(own, pairs=tuple(pairs))
        if "instances" in kinds and any(category.is_thing for category in categories):
            things = objects_of(annotations, pngs)
            objects = _write(self.folder, f"instances_{part}", things)
        return replace(
            own, panoptic_json=file, panoptic=str(pngs), semantic=semantic, json_file=objects
        )

    def _label_maps(
        self, file: Path, pngs: Path, annotations: Annotations, categories: tuple[Category, ...]
    ) -> str:
        """Writes label maps beside the annotations, under a name that changes with the PNGs too."""
        if len(categories) > IGNORE_LABEL:
            raise ValueError(
                f"label maps can have {IGNORE_LABEL} classes, {self.source.title} has "
                f"{len(categories)}"
            )
        stats = [(pngs / one["file_name"]).stat() for one in annotations.annotations]
        digest = _digest(str([(stat.st_size, stat.st_mtime_ns) for stat in stats]))
        folder = file.with_name(f"{file.stem.replace('panoptic', 'semantic')}_{digest}")
        contiguous = {category.id: index for index, category in enumerate(categories)}
        is_large = len(stats) >= MANY
        options: dict[str, Any] = {"title": "label maps"} if is_large else {"workers": 0}
        panoptic_to_semantic(file, pngs, folder, contiguous, **options)
        return str(folder)


def _categories(entries: list[Entry], is_thing: bool | None = None) -> tuple[Category, ...]:
    """The classes of COCO's entries: all of them things, none, or as each says."""
    return make_categories(
        [entry["id"] for entry in entries],
        [entry["name"] for entry in entries],
        [entry["isthing"] if is_thing is None else is_thing for entry in entries],
        [entry.get("color") for entry in entries],
    )


def _write(folder: Path, title: str, part: Annotations) -> str:
    """Writes annotations under a name that changes with them; what is there is complete."""
    text = json.dumps(part.content())
    file = folder.absolute() / f"{title}_{_digest(text)}.json"
    if not file.exists():
        with replacing(file, "w") as stream:
            stream.write(text)
    return str(file)


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:10]
