"""Images with label maps: pairing them, and their classes."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapter_d2.data.own.classes import (
    IGNORE_LABEL,
    OwnClasses,
    clean_name,
    make_categories,
    refuse_equal_names,
    whole_number,
)
from vitadapter_d2.data.own.images import MOST_CHECKED, checked_size, map_files
from vitadapter_d2.data.own.layouts import CLASS_TABLE, Place
from vitadapter_d2.labels import check_labels, read_labels

Pair = tuple[Path, Path]

CLASSES_FILE = "classes.txt"
# What tools append to the name of an image.
_ENDINGS = ("", "_mask", "_label", "_labels", "_seg", "_gt")


def pair_files(place: Place) -> list[Pair]:
    """Images and label maps that belong together by their names, in order.

    Args:
        place: the folders, or the one that has both, label maps as ``*_mask.png``.

    Raises:
        FileNotFoundError: an image or a label map lacks its partner, or there are none.
        ValueError: two files of a folder have the same name but for the suffix.
    """
    images, labels = _by_stem(place.images[0]), _by_stem(place.annotations)
    if place.images[0] == place.annotations:
        is_label = {
            stem: f.suffix == ".png" and stem.endswith("_mask") for stem, f in images.items()
        }
        labels = {stem: file for stem, file in images.items() if is_label[stem]}
        images = {stem: file for stem, file in images.items() if not is_label[stem]}
    pairs, lonely = [], []
    for stem, image in images.items():
        names = [stem + ending for ending in _ENDINGS if stem + ending in labels]
        if names:
            pairs.append((image, labels.pop(names[0])))
        else:
            lonely.append(image)
    for files, what, folder in (
        (lonely, "images have no label map", place.annotations),
        (list(labels.values()), "label maps have no image", place.images[0]),
    ):
        if files:
            raise FileNotFoundError(
                f"{len(files)} {what} in {folder}, the first is {files[0]}; names must agree, as "
                "in a.jpg and a.png"
            )
    for _, label in pairs:
        if label.suffix.lower() in (".jpg", ".jpeg"):
            raise ValueError(f"{label} is a JPEG, which changes class numbers; save PNG instead")
    if not pairs:
        raise FileNotFoundError(f"there are no images in {place.images[0]}")
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    """Pictures by their path without suffix; those of sub folders if the folder has none itself."""
    suffixes = Image.registered_extensions()
    by_stem: dict[str, Path] = {}
    for pattern in ("*", "*/**/*"):
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder)
            if path.suffix.lower() in suffixes and not any(p.startswith(".") for p in name.parts):
                stem = name.with_suffix("").as_posix()
                if stem in by_stem:
                    raise ValueError(f"{by_stem[stem]} and {path.name} have the same name")
                by_stem[stem] = path
        if by_stem:
            break
    return by_stem


def find_classes(folder: Path, pairs: Sequence[Pair]) -> tuple[OwnClasses, tuple[str, ...]]:
    """The classes of label maps: those that a file names, else those that occur.

    Args:
        folder: may have ``classes.txt``, a name per line, that of class 0 first.
        pairs: of all parts; the folders of the label maps may have Roboflow's table instead.

    Returns:
        The classes, and notes about them.

    Raises:
        ValueError: the label maps do not have the size of their images, or have values that are
            no classes, or one class alone.
    """
    named = _named(folder, pairs)
    notes: tuple[str, ...] = ()
    if named:
        file, names = named
        refuse_equal_names(names, file)
        some = pairs[:: -(-len(pairs) // MOST_CHECKED)]
        if unused := _unused(names, _values(some, len(names))):
            shown = ", ".join(unused)
            notes = (f"{file} names classes that do not occur in {len(some)} label maps: {shown}",)
    else:
        values = sorted(_values(pairs, None) - {IGNORE_LABEL})
        names = [f"class {number}" for number in _guessed(values, folder / CLASSES_FILE)]
    ids = range(len(names))
    return OwnClasses("semantic", make_categories(ids, names, [False] * len(names))), notes


def _named(folder: Path, pairs: Sequence[Pair]) -> tuple[Path, list[str]] | None:
    """The file that names the classes, and the names."""
    if (file := folder / CLASSES_FILE).is_file():
        return file, read_names(file)
    files = sorted({label.parent / CLASS_TABLE for _, label in pairs})
    tables = {file: read_table(file) for file in files if file.is_file()}
    first = next(iter(tables.items()), None)
    for file, names in tables.items():
        if first and names != first[1]:
            raise ValueError(f"{first[0]} and {file} name other classes")
    return first


def _unused(names: Sequence[str], values: set[int]) -> list[str]:
    """Named classes that do not occur.

    Raises:
        ValueError: one class occurs, and 255: a mask of two classes as drawing programs save it.
    """
    if IGNORE_LABEL in values and len(values) < 3:
        raise ValueError(
            f"the label maps have no values but {', '.join(map(str, sorted(values)))}, and "
            f"{IGNORE_LABEL} means ignored, so there are no two classes to tell apart; save masks "
            "of two classes as 0 and 1"
        )
    return [name for number, name in enumerate(names) if number not in values]


def read_table(file: Path) -> list[str]:
    """The class names of Roboflow's ``_classes.csv``: ``Pixel Value, Class``, ``0, background``...

    Raises:
        ValueError: it is another table, or its numbers are not 0, 1, 2, ...
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream, skipinitialspace=True) if row][1:]
        table = {whole_number(number): clean_name(name) for number, name in rows}
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is no table of pixel values and classes: {error}") from error
    if not table or sorted(table) != list(range(len(rows))):
        raise ValueError(f"{file} must number the classes 0, 1, 2, ..., it has {sorted(table)}")
    return [table[number] for number in range(len(table))]


def read_names(file: Path) -> list[str]:
    """One class name per line; empty lines at the end do not count.

    Raises:
        ValueError: there is none, or one is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error}") from error
    if not 1 <= len(lines) <= IGNORE_LABEL:
        raise ValueError(f"{file} must name 1 to {IGNORE_LABEL} classes, it has {len(lines)} lines")
    names = []
    for number, line in enumerate(lines, start=1):
        try:
            names.append(clean_name(line))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    return names


def _values(pairs: Sequence[Pair], num_classes: int | None) -> set[int]:
    """All values, checked against images and number of classes."""
    look = partial(_values_of, num_classes)
    found: set[int] = set()
    for values in map_files(look, pairs, "label maps"):
        found |= values
    return found


def _values_of(num_classes: int | None, pair: Pair) -> set[int]:
    image, label = pair
    labels = read_labels(label, allow_palette=True)
    size = checked_size(image)
    if labels.shape != size[::-1]:
        raise ValueError(
            f"{label} is {labels.shape[1]} x {labels.shape[0]}, its image {size[0]} x {size[1]}"
        )
    values = np.unique(labels)
    if num_classes is not None:
        check_labels(values[None], num_classes, IGNORE_LABEL, label)
    return set(values.tolist())


def _guessed(values: Sequence[int], file: Path) -> Sequence[int]:
    """Class numbers without a table of names: they must run from 0 without a gap."""
    if list(values) == list(range(len(values))) and len(values) > 1:
        return values
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    advice = f"{IGNORE_LABEL} means ignored; save the classes of pixels as 0, 1, 2, ..."
    raise ValueError(
        f"without {file} the values of the label maps must be 0, 1, 2, ... without a gap, they "
        f"are {shown or 'none'} (and {advice})"
    )
