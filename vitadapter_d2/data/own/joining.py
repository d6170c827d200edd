"""Making one data set of a training and a held-out part."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from vitadapter_d2.data.own.classes import refuse_equal_names
from vitadapter_d2.data.own.instances import Annotations, Entry

_T = TypeVar("_T")


def hold_out(items: Sequence[_T], name_of: Callable[[_T], str], fraction: float) -> set[str]:
    """Names of the items to hold out: the same ones whenever they are called the same.

    Copies of one photo that Roboflow augmented stay together.

    Args:
        items: all of them.
        name_of: what an item is called.
        fraction: share of the photos, in (0, 1); at least one is held out and one is kept.

    Raises:
        ValueError: there are fewer than two photos.
    """
    names = {name_of(item) for item in items}
    photos = sorted({_photo(name) for name in names}, key=_shuffled)
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photos cannot be divided into a train and a val part")
    held = set(photos[: min(max(round(fraction * len(photos)), 1), len(photos) - 1)])
    return {name for name in names if _photo(name) in held}


def _photo(name: str) -> str:
    """Without the hash that Roboflow gives each copy: ``a_jpg.rf.0f3c.jpg`` is one of ``a_jpg``."""
    return name.split(".rf.")[0]


def _shuffled(name: str) -> bytes:
    return hashlib.sha1(name.encode(), usedforsecurity=False).digest()


def divide(whole: Annotations, fraction: float) -> tuple[Annotations, Annotations]:
    """Holds out a share of the images and their annotations."""
    held = hold_out(whole.images, lambda image: image["file_name"], fraction)
    parts = []
    for is_held in (False, True):
        images = [image for image in whole.images if (image["file_name"] in held) == is_held]
        ids = {image["id"] for image in images}
        own = [one for one in whole.annotations if one["image_id"] in ids]
        parts.append(replace(whole, images=images, annotations=own))
    return parts[0], replace(parts[1], notes=[])


def share_classes(
    parts: Mapping[str, Annotations], fraction: float | None
) -> dict[str, Annotations]:
    """Train and val with the same classes, or the val part alone.

    Args:
        parts: that there are; without a val part one is held out.
        fraction: see :func:`hold_out`.

    Raises:
        ValueError: the classes or the images do not allow it.
    """
    if "train" not in parts:
        return {"val": _share_categories(parts["val"], parts["val"])[1]}
    train, val = parts["train"], parts.get("val")
    train, val = (train, val) if val else divide(train, fraction or 0.0)
    train, val = _share_categories(train, val)
    return {"train": train, "val": val}


def _share_categories(train: Annotations, val: Annotations) -> tuple[Annotations, Annotations]:
    """Gives the val part the classes and ids of the training part, by their names.

    Some tools number the classes of each part anew, or list those only that occur.

    Raises:
        ValueError: the val part has objects of a class that the training part lacks, or two
            classes have one name.
    """
    train = _without_placeholder(train, val)
    refuse_equal_names([category["name"] for category in train.categories], train.source)
    ids = {category["name"]: category["id"] for category in train.categories}
    names = {category["id"]: category["name"] for category in val.categories}
    unknown = sorted({names[number] for number in _used(val)} - ids.keys())
    if unknown:
        raise ValueError(
            f"{val.source} has objects of class {unknown[0]!r}, which {train.source} lacks; its "
            f"classes are {', '.join(ids)}"
        )
    new_id = {number: ids.get(name, -1) for number, name in names.items()}
    renumbered = [_renumbered(one, new_id) for one in val.annotations]
    return train, replace(val, categories=train.categories, annotations=renumbered)


def _used(part: Annotations) -> set[int]:
    segments = (one.get("segments_info", [one]) for one in part.annotations)
    return {segment["category_id"] for group in segments for segment in group}


def _renumbered(annotation: Entry, new_id: dict[int, int]) -> Entry:
    if "segments_info" in annotation:
        segments = [_renumbered(segment, new_id) for segment in annotation["segments_info"]]
        return {**annotation, "segments_info": segments}
    return {**annotation, "category_id": new_id[annotation["category_id"]]}


def _without_placeholder(train: Annotations, val: Annotations) -> Annotations:
    """Drops Roboflow's entry of the project's name: over all classes and never annotated."""
    of_val = {category["id"]: category for category in val.categories}
    # Its only class may have the same name, with it as its parent.
    used_in_val = {c["name"] for n in _used(val) if _parent(c := of_val[n]) != c["name"]}
    for category in train.categories:
        others = [other for other in train.categories if other is not category]
        is_parent = others and all(_parent(o) == category["name"] for o in others)
        is_used = category["id"] in _used(train) or category["name"] in used_in_val
        if is_parent and _parent(category) == "none" and not is_used:
            note = f"{train.source}: {category['name']!r} stands for all classes and is left out"
            return replace(train, categories=others, notes=[*train.notes, note])
    return train


def _parent(category: dict[str, Any]) -> str:
    return str(category.get("supercategory", ""))
