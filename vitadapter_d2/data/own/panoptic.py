"""Panoptic segments in COCO's format: JSON and PNG files; and what follows from them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitadapter_d2.data.coco_format import describe_mask, encode_mask, rgb_to_ids
from vitadapter_d2.data.own.classes import whole_number
from vitadapter_d2.data.own.images import check_sizes, locate, map_files
from vitadapter_d2.data.own.instances import Annotations, Entry, read_categories, read_images
from vitadapter_d2.data.own.layouts import Place, read_coco, subfolders
from vitadapter_d2.data.preparing.label_maps import read_picture


def read_segments(place: Place) -> tuple[Annotations, Path]:
    """Reads a file of panoptic segments.

    Args:
        place: the file, and where its images may be.

    Returns:
        What it says, and the folder of the PNG files.

    Raises:
        FileNotFoundError: images or PNG files are missing.
        ValueError: the file contradicts itself, its images or its PNG files.
    """
    source = place.annotations
    content = read_coco(source)
    categories = read_categories(content, source)
    for category in categories:
        if category.get("isthing") not in (0, 1):
            raise ValueError(
                f"{source}: the category {category['name']!r} must say isthing: 1 (objects to be "
                f"counted) or 0, it says {category.get('isthing')!r}"
            )
    root, images, new_id = read_images(content, place)
    annotations = [_mended(one, new_id, categories, source) for one in content["annotations"]]
    listed = {one["image_id"] for one in annotations}
    missing = [image["file_name"] for image in images if image["id"] not in listed]
    if missing or len(listed) < len(annotations):
        what = f"{missing[0]} has none" if missing else "some have two"
        raise ValueError(f"{source}: every image must have one annotation, {what}")
    pngs, names = locate([one["file_name"] for one in annotations], _png_folders(place), source)
    sizes = {image["id"]: image for image in images}
    for one, name in zip(annotations, names, strict=True):
        one["file_name"] = name
    check_sizes(pngs, [{**sizes[one["image_id"]], **one} for one in annotations], source)
    return Annotations(source, root, images, annotations, categories), pngs


def _png_folders(place: Place) -> list[Path]:
    """Where the PNG files may lie: beside the JSON file under its name, or in the folder above."""
    here, stem = place.annotations.parent, place.annotations.stem
    names = [stem, stem.removeprefix("panoptic_"), "panoptic", "masks", "labels"]
    folders = [*subfolders(here, names), *subfolders(here.parent, names)]
    for base in subfolders(here.parent, ["panoptic", "masks", "labels"]):
        folders = [*subfolders(base, names), *folders]
    return [*folders, here]


def _mended(
    annotation: Entry, new_id: dict[Any, int], categories: list[Entry], source: Path
) -> Entry:
    known = {category["id"] for category in categories}
    try:
        segments = [
            {
                **segment,
                "id": whole_number(segment["id"]),
                "category_id": whole_number(segment["category_id"]),
                "iscrowd": int(segment.get("iscrowd") or 0),
            }
            for segment in annotation["segments_info"]
        ]
        name, image_id = str(annotation["file_name"]), new_id[annotation["image_id"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: a wrong annotation, {error!r}: {annotation!r:.80}") from error
    for segment in segments:
        if segment["category_id"] not in known:
            raise ValueError(
                f"{source}: a segment of {name} has category_id {segment['category_id']}, the "
                f"categories are {sorted(known)}"
            )
    return {"image_id": image_id, "file_name": name, "segments_info": segments}


def measured(panoptic: Annotations, pngs: Path) -> Annotations:
    """Takes areas and boxes of the segments from their pixels: the metrics believe what is told.

    Segments without a pixel are left out.

    Args:
        panoptic: the segments.
        pngs: folder of the PNG files.

    Raises:
        ValueError: a PNG file has a segment that the annotations lack.
    """
    found = list(map_files(partial(_measured, pngs), panoptic.annotations, "segments"))
    before, after = (
        sum(len(one["segments_info"]) for one in annotations)
        for annotations in (panoptic.annotations, found)
    )
    notes = [f"{panoptic.source}: {before - after} segments without a pixel are left out"]
    notes = [*panoptic.notes, *(notes if after < before else [])]
    return replace(panoptic, annotations=found, notes=notes)


def _measured(pngs: Path, annotation: Entry) -> Entry:
    path = pngs / annotation["file_name"]
    ids = rgb_to_ids(read_picture(path, "RGB"))
    segments = [
        {**segment, **describe_mask(mask), "iscrowd": segment["iscrowd"]}
        for segment in annotation["segments_info"]
        if (mask := ids == segment["id"]).any()
    ]
    unknown = set(np.unique(ids).tolist()) - {0, *(segment["id"] for segment in segments)}
    if unknown:
        raise ValueError(f"{path} has segment id {min(unknown)}, which its JSON file lacks")
    return {**annotation, "segments_info": segments}


def objects_of(panoptic: Annotations, pngs: Path) -> Annotations:
    """The things among panoptic segments as objects with masks.

    Args:
        panoptic: the segments.
        pngs: folder of the PNG files.
    """
    things = [category for category in panoptic.categories if category["isthing"]]
    find = partial(_objects, pngs, {category["id"] for category in things})
    found = map_files(find, panoptic.annotations, "things")
    objects = [entry for entries in found for entry in entries]
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    return Annotations(panoptic.source, panoptic.root, panoptic.images, objects, things)


def _objects(pngs: Path, things: set[int], annotation: Entry) -> list[Entry]:
    ids = rgb_to_ids(read_picture(pngs / annotation["file_name"], "RGB"))
    entries = []
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        if segment["category_id"] in things and mask.any():
            entry = {
                **describe_mask(mask),
                "image_id": annotation["image_id"],
                "category_id": segment["category_id"],
                "iscrowd": segment["iscrowd"],
                "segmentation": encode_mask(mask),
            }
            entries.append(entry)
    return entries
