"""What can be wrong with annotations in COCO's panoptic format, found without reading an image."""

from collections import Counter
from typing import Any

from vitadapter_d2.data.checking.coco import (
    Json,
    check_categories,
    check_parts,
    duplicates,
    ranges,
    with_keys,
)
from vitadapter_d2.data.checking.findings import Finding, Findings


def check_panoptic(content: Any) -> list[Finding]:
    """Check panoptic annotations in COCO's format.

    Args:
        content: what the JSON file holds; it may lack ``categories``.

    Returns:
        The errors and, with ``is_error=False``, what is legal but good to know.
    """
    findings = check_parts(content, ("images", "annotations"), ("categories",))
    if findings:
        return findings
    found = Findings()
    images = with_keys(found, "image", content["images"], ("id", "file_name"))
    categories = with_keys(found, "category", content.get("categories", []), ("id", "name"))
    annotations = with_keys(
        found, "annotation", content["annotations"], ("image_id", "file_name", "segments_info")
    )
    check_categories(found, categories)
    repeated = duplicates(image["id"] for image in images)
    found.add("image id that occurs more than once", map(str, repeated), is_fatal=True)
    ids, annotated = {i["id"] for i in images}, [a["image_id"] for a in annotations]
    unknown = (str(number) for number in annotated if number not in ids)
    found.add("annotation of an image that is not listed", unknown, is_fatal=True)
    twice = duplicates(annotated)
    found.add("image with more than one annotation", map(str, twice), is_fatal=True)
    legal = {category["id"] for category in categories}
    for annotation in annotations:
        _check_segments(found, annotation, legal)
    missing = (i["file_name"] for i in images if i["id"] not in set(twice) | set(annotated))
    found.add("image without annotation, which the loader leaves out", missing, is_error=False)
    return found.list()


def count_segment_classes(content: Json) -> dict[str, int]:
    """Return the number of segments of each category by name, in the order of the ids."""
    counts = Counter(
        segment.get("category_id")
        for annotation in content["annotations"]
        for segment in annotation.get("segments_info", [])
    )
    ordered = sorted(content.get("categories", []), key=lambda category: category["id"])
    return {category["name"]: counts[category["id"]] for category in ordered}


def _check_segments(found: Findings, annotation: Json, legal: set[Any]) -> None:
    name = annotation["file_name"]
    segments = with_keys(
        found, f"segment of {name}", annotation["segments_info"], ("id", "category_id")
    )
    repeated = duplicates(segment["id"] for segment in segments)
    found.add(
        "segment id that occurs more than once",
        (f"{number} in {name}" for number in repeated),
        is_fatal=True,
    )
    unknown = [s for s in segments if legal and s["category_id"] not in legal]
    found.add(
        f"unknown category id, legal ones are {ranges(legal)}",
        (f"segment {s['id']} of {name} has {s['category_id']!r}" for s in unknown),
        is_fatal=True,
    )
    without = (f"{s['id']} in {name}" for s in segments if "area" not in s)
    found.add("segment without area, which the panoptic metrics need", without)
    empty = (f"{s['id']} in {name}" for s in segments if s.get("area") == 0)
    found.add("segment without a pixel", empty)
