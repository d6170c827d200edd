"""Masks of objects in COCO's format: polygons and run lengths, as annotation tools write them."""

import math
from typing import Any

from pycocotools import mask as coco_mask

from vitadapter_d2.data.checking.coco import EMPTY_MASK, is_polygon, run_length_problem

Entry = dict[str, Any]


def mended_mask(given: Any, image: Entry) -> Any:
    """Polygons of 3 points and more, or run lengths of the image's size; None if none is left.

    Args:
        given: a ``segmentation``.
        image: with ``height`` and ``width``.

    Raises:
        ValueError: it has no meaning.
    """
    if not given:
        return None
    if isinstance(given, dict):
        size = (image["height"], image["width"])
        problem = run_length_problem(given, size)
        if problem not in (None, EMPTY_MASK):
            told = f"has (height, width) {given.get('size')}, its image {size}"
            raise ValueError(f"{problem}; it {told}")
        return None if problem else given
    if not isinstance(given, list):
        raise ValueError(f"segmentation must be polygons or run lengths, got {given!r:.60}")
    polygons = [[float(v) for v in p] for p in _polygons(given) if is_polygon(p)]
    if not all(math.isfinite(value) for polygon in polygons for value in polygon):
        raise ValueError("a polygon has numbers that are not finite")
    return polygons or None


def _polygons(given: list[Any]) -> list[list[Any]]:
    """Lists x, y, x, y, ...: some tools write points as pairs, or one polygon without its list."""
    if _are_points(given) or not isinstance(given[0], list):
        given = [given]
    return [[v for point in p for v in point] if _are_points(p) else p for p in given]


def _are_points(polygon: list[Any]) -> bool:
    return all(
        isinstance(point, list)
        and len(point) == 2
        and not any(isinstance(value, list) for value in point)
        for point in polygon
    )


def box_of(segmentation: Any, image: Entry) -> list[float]:
    """Left, top, width and height of a mended mask."""
    return [float(value) for value in coco_mask.toBbox(_runs(segmentation, image))]


def area_of(segmentation: Any, image: Entry) -> float:
    """Number of pixels of a mended mask."""
    return float(coco_mask.area(_runs(segmentation, image)))


def _runs(segmentation: Any, image: Entry) -> Any:
    """Run lengths as pycocotools wants them."""
    runs = segmentation
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        runs = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return coco_mask.merge(runs) if isinstance(runs, list) else runs
