"""Objects in COCO's format, as annotation tools write it: checked and put in order.

What Detectron2 and the COCO tools stumble over is mended where the meaning is plain, and told;
the rest is refused with one sentence.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitadapter_d2.data.checking.coco import duplicates
from vitadapter_d2.data.own.classes import clean_name, whole_number
from vitadapter_d2.data.own.images import check_sizes, locate
from vitadapter_d2.data.own.layouts import Place, read_coco
from vitadapter_d2.data.own.masks import Entry, area_of, box_of, mended_mask


@dataclass(frozen=True)
class Annotations:
    """One part of a data set, mended.

    Attributes:
        source: the file it comes from.
        root: folder of the images.
        images: COCO's entries, ``file_name`` relative to ``root``.
        annotations: COCO's entries.
        categories: COCO's entries, in the order of their ids.
        notes: what was mended or left out.
    """

    source: Path
    root: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    notes: list[str] = field(default_factory=list)

    def content(self) -> dict[str, list[Entry]]:
        """For a JSON file."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }


def read_objects(place: Place) -> Annotations:
    """Reads a file of objects.

    Args:
        place: the file, and where its images may be.

    Raises:
        FileNotFoundError: images are missing.
        ValueError: the file contradicts itself or its images.
    """
    source = place.annotations
    content = read_coco(source)
    categories = read_categories(content, source)
    root, images, new_id = read_images(content, place)
    objects = _Objects(source, images, {category["id"] for category in categories}, new_id)
    annotations = [entry for one in content["annotations"] if (entry := objects.mended(one))]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number  # unique, and no 0, which pycocotools takes for "no match"
    return Annotations(source, root, images, annotations, categories, objects.notes())


def read_categories(content: Mapping[str, Any], source: object) -> list[Entry]:
    """The classes of a file in the order of their ids.

    Raises:
        ValueError: one has no id or name, or an id is there twice.
    """
    categories = []
    for category in content["categories"]:
        try:
            entry = {"id": whole_number(category["id"]), "name": clean_name(category["name"])}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{source}: the category {category} is wrong: {error!r}") from error
        entry |= {
            key: category[key] for key in ("supercategory", "isthing", "color") if key in category
        }
        categories.append(entry)
    _refuse_twice(duplicates(entry["id"] for entry in categories), "categories", source)
    if not categories:
        raise ValueError(f"{source} has no categories")
    return sorted(categories, key=lambda category: category["id"])


def read_images(
    content: Mapping[str, Any], place: Place
) -> tuple[Path, list[Entry], dict[Any, int]]:
    """The images of a file: their folder, their entries, and their ids old to new.

    Raises:
        FileNotFoundError: some are missing.
        ValueError: an entry is wrong, an id is there twice, or a size is another.
    """
    source = place.annotations
    try:
        old_ids = [image["id"] for image in content["images"]]
        twice = duplicates(old_ids)
        names = [str(image["file_name"]) for image in content["images"]]
        sizes = [_size_told(image) for image in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: an image entry is wrong: {error!r}") from error
    if not names:
        raise ValueError(f"{source} has no images")
    _refuse_twice(twice, "images", source)
    keeps_ids = all(isinstance(number, int) for number in old_ids)
    new_ids = old_ids if keeps_ids else range(1, len(names) + 1)
    root, names = locate(names, place.images, source)
    images = [
        {"id": number, "file_name": name, **size}
        for number, name, size in zip(new_ids, names, sizes, strict=True)
    ]
    check_sizes(root, images, source)
    return root, images, dict(zip(old_ids, new_ids, strict=True))


def _size_told(image: Mapping[str, Any]) -> Entry:
    """Width and height of an image entry; 0 where there is none."""
    return {side: whole_number(image.get(side) or 0) for side in ("width", "height")}


def _refuse_twice(twice: Mapping[Any, int], what: str, source: object) -> None:
    if twice:
        raise ValueError(
            f"{source}: {len(twice)} ids of {what} are there twice, first {next(iter(twice))!r}"
        )


class _Objects:
    """Mends the objects of one file and counts what it does.

    Args:
        source: the file, for messages.
        images: its images.
        category_ids: its classes.
        new_id: ids of images, old to new.
    """

    def __init__(
        self,
        source: Path,
        images: Sequence[Entry],
        category_ids: set[int],
        new_id: Mapping[Any, int],
    ) -> None:
        self.source = source
        self.images = {image["id"]: image for image in images}
        self.category_ids = category_ids
        self.new_id = new_id
        self.counts: Counter[str] = Counter()

    def notes(self) -> list[str]:
        return [f"{self.source}: {count} {what}" for what, count in self.counts.items()]

    def mended(self, annotation: Entry) -> Entry | None:
        """The object in order; None if it is to be left out."""
        try:
            image = self.images.get(self.new_id.get(annotation["image_id"], -1))
            category = whole_number(annotation["category_id"])
            if category not in self.category_ids:
                raise ValueError(
                    f"category_id {category} is unknown, the categories are "
                    f"{sorted(self.category_ids)}"
                )
            if image is None or annotation["image_id"] not in self.new_id:
                return self._left_out("annotations of images that it does not list are left out")
            return self._entry(annotation, image, category)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            told = f"it has no {error}" if isinstance(error, KeyError) else error
            name = annotation.get("id", "?") if isinstance(annotation, dict) else annotation
            raise ValueError(f"{self.source}: annotation {name}: {told}") from error

    def _left_out(self, why: str) -> Entry | None:
        self.counts[why] += 1
        return None

    def _entry(self, annotation: Entry, image: Entry, category: int) -> Entry | None:
        given = annotation.get("segmentation")
        if isinstance(given, list):
            given = [part for part in given if part != []]  # what some tools write for "no mask"
        segmentation = mended_mask(given, image)
        if given and not segmentation:
            return self._left_out(
                "objects without a polygon of 3 points, or with an empty mask, are left out"
            )
        inside = self._inside(self._box(annotation, segmentation, image), image)
        if inside is None:
            return self._left_out("objects without area, or outside of their image, are left out")
        area = annotation.get("area")
        if not isinstance(area, int | float) or not math.isfinite(area):
            area = area_of(segmentation, image) if segmentation else inside[2] * inside[3]
        # "ignore" is of old files; Detectron2 refuses it.
        is_crowd = any(int(annotation.get(key) or 0) for key in ("iscrowd", "ignore"))
        entry = {
            "image_id": image["id"],
            "category_id": category,
            "bbox": inside,
            "area": area,
            "iscrowd": int(is_crowd),
        }
        return {**entry, "segmentation": segmentation} if segmentation else entry

    def _box(self, annotation: Entry, segmentation: Any, image: Entry) -> list[float]:
        """The box that is told; that of the mask if there is none or it has no area."""
        box = _four_numbers(annotation["bbox"]) if annotation.get("bbox") else None
        if box and (min(box[2:]) > 0 or not segmentation):
            return box
        if not segmentation:
            raise ValueError("it has neither bbox nor segmentation")
        if box:
            self.counts["boxes without area are taken from their masks"] += 1
        return box_of(segmentation, image)

    def _inside(self, box: list[float], image: Entry) -> list[float] | None:
        """The part of a box inside of its image; None if there is none."""
        x, y, width, height = box
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
        if right <= left or bottom <= top:
            return None
        inside = [left, top, right - left, bottom - top]
        # Tools that count pixels from 1, and their rounding, are no news.
        if any(abs(a - b) > 1 for a, b in zip(box, inside, strict=True)):
            self.counts["boxes reach beyond their image and are cut"] += 1
        return inside


def _four_numbers(box: Any) -> list[float]:
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"bbox must be four finite numbers (x, y, width, height), got {box}")
    return numbers
