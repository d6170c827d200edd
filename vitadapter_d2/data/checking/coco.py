"""What can be wrong with annotations in COCO's format, found without reading an image.

Everything here works on the content of a JSON file as it is on disk, before a loader has dropped or
refused part of it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from vitadapter_d2.data.checking.findings import Finding, Findings

Json = dict[str, Any]
EMPTY_MASK = "mask without a pixel"
NO_AREA = "box of zero or negative area"
# What entries may be found by.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "image_id", "category_id", "name"), int | float | str),
    "file_name": str,
    "segments_info": list,
}
_TOLERANCE_PIXELS = 1.0  # published boxes end up to one pixel outside of their images


def check_coco(content: Any, needs_file_names: bool = True) -> list[Finding]:
    """Check detection and instance annotations in COCO's format.

    Args:
        content: what the JSON file holds.
        needs_file_names: False for LVIS, whose images have a ``coco_url`` instead.

    Returns:
        The errors and, with ``is_error=False``, what is legal but good to know: images without
        annotation, crowds, classes without annotation, annotations of images that are not listed.
    """
    findings = check_parts(content, ("images", "categories"), ("annotations",))
    if findings:
        return findings
    found = Findings()
    annotations = content.get("annotations", [])
    keys = ("id", "height", "width", *(["file_name"] if needs_file_names else []))
    images = with_keys(found, "image", content["images"], keys)
    categories = with_keys(found, "category", content["categories"], ("id", "name"))
    annotations = with_keys(
        found, "annotation", annotations, ("id", "image_id", "category_id", "bbox")
    )
    if not content["categories"]:
        found.add("file without a category", ["categories is empty"], is_fatal=True)
    _check_images(found, images)
    check_categories(found, categories)
    _check_references(found, annotations, images, categories)
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in images
        if _is_size(image["height"], image["width"])
    }
    has_masks = any(annotation.get("segmentation") for annotation in annotations)
    for annotation in annotations:
        size = sizes.get(annotation["image_id"])
        name = [f"annotation {annotation['id']} of image {annotation['image_id']}"]
        for kind in _box_problems(annotation["bbox"], size):
            found.add(kind, name)
        if has_masks:
            for kind in _mask_problems(annotation.get("segmentation"), size):
                found.add(kind, name)
    _note_what_is_legal(found, images, annotations, categories)
    return found.list()


def count_classes(content: Json) -> dict[str, int]:
    """Return the number of annotations of each category by name, in the order of the ids."""
    counts = Counter(annotation.get("category_id") for annotation in content.get("annotations", []))
    ordered = sorted(content["categories"], key=lambda category: category["id"])
    return {category["name"]: counts[category["id"]] for category in ordered}


def duplicates(values: Iterable[Any]) -> dict[Any, int]:
    """Return how often each value occurs that occurs more than once."""
    return {value: count for value, count in Counter(values).items() if count > 1}


def check_parts(content: Any, parts: Sequence[str], optional: Sequence[str] = ()) -> list[Finding]:
    """Return what is fatally wrong with the outermost structure: the lists that must be there."""
    if not isinstance(content, dict):
        kind = f"file that holds a {type(content).__name__}, not an object with {list(parts)}"
        return [Finding(kind, 1, is_fatal=True)]
    needed = [*parts, *(part for part in optional if part in content)]
    missing = [f"{part!r}" for part in needed if not isinstance(content.get(part), list)]
    if missing:
        return [Finding("missing list of the file", len(missing), tuple(missing), is_fatal=True)]
    return []


def with_keys(
    found: Findings, what: str, entries: Sequence[Any], keys: Sequence[str]
) -> list[Json]:
    """Return the entries that have all the keys, and note those that lack one or misuse it."""
    complete = []
    for place, entry in enumerate(entries):
        problem = _problem_with_keys(entry, keys)
        if problem is None:
            complete.append(entry)
            continue
        number = entry.get("id") if isinstance(entry, dict) else None
        name = f"{what} {number}" if number is not None else f"{what} number {place} of the list"
        found.add(f"{what} {problem}", [name], is_fatal=True)
    return complete


def _problem_with_keys(entry: Any, keys: Sequence[str]) -> str | None:
    if missing := [key for key in keys if not isinstance(entry, dict) or key not in entry]:
        return f"without {', '.join(missing)}"
    wrong = [key for key in keys if not isinstance(entry[key], _TYPES.get(key, object))]
    return f"with a wrong {', '.join(wrong)}" if wrong else None


def _check_images(found: Findings, images: Sequence[Json]) -> None:
    repeated = duplicates(image["id"] for image in images)
    found.add("image id that occurs more than once", map(str, repeated), is_fatal=True)
    names = duplicates(image["file_name"] for image in images if "file_name" in image)
    found.add("file name of more than one image", map(str, names))
    wrong = [image for image in images if not _is_size(image["height"], image["width"])]
    found.add(
        "image whose height or width is no positive whole number",
        (f"image {image['id']}: {image['height']} x {image['width']}" for image in wrong),
        is_fatal=True,
    )


def _is_size(height: Any, width: Any) -> bool:
    return all(isinstance(side, int | float) and side > 0 == side % 1 for side in (height, width))


def check_categories(found: Findings, categories: Sequence[Json]) -> None:
    """Note ids and names that occur more than once."""
    ids = duplicates(category["id"] for category in categories)
    found.add("category id that occurs more than once", map(str, ids), is_fatal=True)
    names = duplicates(category["name"] for category in categories)
    found.add("name of more than one category", map(str, names))


def _check_references(
    found: Findings, annotations: Sequence[Json], images: Sequence[Json], categories: Sequence[Json]
) -> None:
    repeated = duplicates(annotation["id"] for annotation in annotations)
    found.add("annotation id that occurs more than once", map(str, repeated), is_fatal=True)
    image_ids = {image["id"] for image in images}
    found.add(
        "annotation of an image that is not listed",
        (
            f"annotation {a['id']} of image {a['image_id']}"
            for a in annotations
            if a["image_id"] not in image_ids
        ),
    )
    category_ids = {category["id"] for category in categories}
    found.add(
        f"unknown category id, legal ones are {ranges(category_ids)}",
        (
            f"annotation {a['id']} has {a['category_id']!r}"
            for a in annotations
            if a["category_id"] not in category_ids
        ),
        is_fatal=True,
    )
    found.add(
        '"ignore" set, which the loader does not know ("iscrowd" is what COCO has)',
        (f"annotation {a['id']}" for a in annotations if a.get("ignore")),
        is_fatal=True,
    )


def ranges(values: Iterable[Any]) -> str:
    """``{1, 2, 3, 7}`` -> ``"1 to 3, 7"``; other values than whole numbers are listed."""
    known = set(values)
    if not all(isinstance(value, int) for value in known):
        return ", ".join(islice(sorted(map(repr, known)), 20))
    starts = [value for value in sorted(known) if value - 1 not in known]
    ends = [value for value in sorted(known) if value + 1 not in known]
    return ", ".join(
        f"{start} to {end}" if end > start else f"{start}"
        for start, end in zip(starts, ends, strict=True)
    )


def _box_problems(box: Any, size: tuple[int, int] | None) -> list[str]:
    if not (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
    ):
        return ["box that is not four finite numbers x, y, width, height"]
    x, y, box_width, box_height = box
    if box_width <= 0 or box_height <= 0:
        return [NO_AREA]
    if size is None:
        return []
    height, width = size
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        return ["box outside of its image"]
    outside = max(-x, -y, x + box_width - width, y + box_height - height)
    if outside > _TOLERANCE_PIXELS:
        return ["box that reaches out of its image by more than one pixel"]
    return []


def _mask_problems(segmentation: Any, size: tuple[int, int] | None) -> list[str]:
    if not segmentation:
        return ["annotation without segmentation in a file that has them"]
    if isinstance(segmentation, dict):
        problem = run_length_problem(segmentation, size)
        return [problem] if problem else []
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        return ["segmentation that is neither polygons nor a run-length code"]
    valid = list(filter(is_polygon, segmentation))
    if not valid:
        return ["segmentation without a polygon of three points"]
    if len(valid) < len(segmentation):
        return ["polygon of fewer than three points"]
    return []


def is_polygon(points: Sequence[Any]) -> bool:
    """Whether a list x, y, x, y, ... has three points or more."""
    return len(points) >= 6 and len(points) % 2 == 0


def run_length_problem(code: Mapping[str, Any], size: tuple[int, int] | None) -> str | None:
    """Return what is wrong with a run-length code, ``EMPTY_MASK`` being one of the answers.

    Args:
        code: with ``size`` and ``counts``, which may be compressed.
        size: height and width of the image, if it is known.
    """
    told, counts = code.get("size"), code.get("counts")
    if not (isinstance(told, list | tuple) and isinstance(counts, list | str)):
        return "run-length code without size or counts"
    if size is not None and list(told) != list(size):
        return "run-length code of another size than its image"
    if isinstance(counts, str):
        counts = _expanded(counts)
    if not all(isinstance(length, int) and length >= 0 for length in counts):
        return "run-length code with counts that are not whole numbers"
    if sum(counts) != math.prod(told):
        return "run-length code that does not fill its image"
    return None if sum(counts[1::2]) else EMPTY_MASK


def _expanded(text: str) -> list[int]:
    """Compressed run lengths as numbers; of text that is no such code, one that is negative.

    pycocotools decodes whatever it is given, and a mask that ends too soon as an empty rest.
    """
    code = np.array([ord(char) for char in text], np.int64) - 48
    is_last = code & 32 == 0  # of the characters of a number, which hold 5 bits each
    if not text or code.min() < 0 or code.max() > 63 or not is_last[-1]:
        return [-1]
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(starts, append=len(code))
    if lengths.max() > 12:  # more than 60 bits
        return [-1]
    place = np.arange(len(code)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((code & 31) << 5 * place, starts)
    numbers -= (code[is_last] & 16 != 0) * (1 << 5 * lengths)  # the sign
    # From the fourth on they are differences to the last but one.
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers.tolist()


def _note_what_is_legal(
    found: Findings,
    images: Sequence[Json],
    annotations: Sequence[Json],
    categories: Sequence[Json],
) -> None:
    annotated = {annotation["image_id"] for annotation in annotations}
    used = {annotation["category_id"] for annotation in annotations}
    empty = (_image_name(image) for image in images if image["id"] not in annotated)
    found.add("image without annotation", empty, is_error=False)
    crowds = (f"annotation {a['id']}" for a in annotations if a.get("iscrowd"))
    found.add("crowd", crowds, is_error=False)
    unused = (str(category["name"]) for category in categories if category["id"] not in used)
    found.add("class without annotation", unused, is_error=False)


def _image_name(image: Json) -> str:
    return str(image.get("file_name", f"image {image['id']}"))
