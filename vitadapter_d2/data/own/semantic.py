"""Images with label maps: pairing them, and their classes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapter_d2.data.own.classes import IGNORE_LABEL, OwnClasses, clean_name, make_categories
from vitadapter_d2.data.own.images import MOST_CHECKED, checked_size, map_files
from vitadapter_d2.data.own.layouts import Place
from vitadapter_d2.labels import check_labels, read_labels

Pair = tuple[Path, Path]

CLASSES_FILE = "classes.txt"
# What tools append to the name of an image.
_ENDINGS = ("", "_mask", "_label", "_labels", "_seg", "_gt")


def pair_files(place: Place) -> list[Pair]:
    """Images and label maps that belong together by their names, in order.

    Args:
        place: the folders.

    Raises:
        FileNotFoundError: an image or a label map lacks its partner, or there are none.
        ValueError: two files of a folder have the same name but for the suffix.
    """
    images, labels = _by_stem(place.images[0]), _by_stem(place.annotations)
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
    suffixes = Image.registered_extensions()
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        twice = next(path for path in files if by_stem[path.stem] != path)
        raise ValueError(f"{twice} and {by_stem[twice.stem].name} have the same name")
    return by_stem


def find_classes(folder: Path, pairs: Sequence[Pair]) -> OwnClasses:
    """The classes of label maps: those of ``classes.txt``, else those that occur.

    Args:
        folder: may have ``classes.txt``, a name per line, that of class 0 first.
        pairs: of all parts.

    Raises:
        ValueError: the label maps do not have the size of their images, or have values that are
            no classes.
    """
    file = folder / CLASSES_FILE
    if file.is_file():
        names = read_names(file)
        some = pairs[:: -(-len(pairs) // MOST_CHECKED)]
        _values(some, len(names))
    else:
        names = [f"class {number}" for number in _guessed(_values(pairs, None), file)]
    ids = range(len(names))
    return OwnClasses("semantic", make_categories(ids, names, [False] * len(names)))


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


def _values(pairs: Sequence[Pair], num_classes: int | None) -> list[int]:
    """All class numbers, checked against images and number of classes."""
    look = partial(_values_of, num_classes)
    found: set[int] = set()
    for values in map_files(look, pairs, "label maps"):
        found |= values
    return sorted(found - {IGNORE_LABEL})


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
