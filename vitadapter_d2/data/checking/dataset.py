"""A registered data set, checked from its annotation file to the pixels of its label maps."""

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog, detection_utils

from vitadapter_d2.data.checking.coco import NO_AREA, check_coco, count_classes
from vitadapter_d2.data.checking.findings import Finding, Findings
from vitadapter_d2.data.checking.panoptic import check_panoptic, count_segment_classes
from vitadapter_d2.data.coco_format import read_json, rgb_to_ids
from vitadapter_d2.data.datasets.published import PUBLISHED
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.reading import find_problem
from vitadapter_d2.labels import read_labels

Record = dict[str, Any]
_COVERED = "segment of stuff that things cover completely"
_LEGAL = {_COVERED}
"""Findings of pixels that are no errors."""


@dataclass(frozen=True)
class Report:
    """What a data set holds and what is wrong with it.

    Attributes:
        images: number of them.
        annotations: number of objects or segments, 0 for label maps.
        class_counts: by class name, in the order of the classes: annotations, or for label maps
            the files read that show the class.
        counted: what ``class_counts`` counts.
        decoded: number of images read.
        findings: errors and notes.
        records: Detectron2's records; empty if they cannot be loaded.
    """

    images: int
    annotations: int
    class_counts: dict[str, int]
    counted: str
    decoded: int
    findings: list[Finding]
    records: list[Record] = field(repr=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that make the data set unfit."""
        return [finding for finding in self.findings if finding.is_error]


def check_dataset(
    name: str,
    images: int | None = 1000,
    workers: int | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Report:
    """Check a registered data set: annotations, files and, of a sample, the pixels.

    Args:
        name: of a registered data set.
        images: how many to read, drawn at random; None reads all. That a file exists is looked up
            for every image.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.
        seed: of the sample.

    Raises:
        ValueError: if no such data set is registered; the message has the nearest names.
    """
    known = DatasetCatalog.list()
    if name not in known:
        nearest = ", ".join(get_close_matches(name, known, n=3, cutoff=0.0))
        raise ValueError(f"no data set is registered as {name!r}; the nearest names are {nearest}")
    found = Findings()
    metadata = MetadataCatalog.get(name)
    annotations = _read_annotations(metadata, found)
    records = _load(name, found)
    files = records or annotations.files
    sample = _sample(_present(files, found), images, seed)
    check = partial(_check_pixels, _LabelRule.of(metadata))
    shown: Counter[int] = Counter()
    for problems, classes in parallel_map(check, sample, workers, title):
        for kind, text in problems:
            found.add(kind, [text], is_error=kind not in _LEGAL)
        shown.update(classes)
    counted = "annotations"
    counts = annotations.class_counts or _count_objects(records, metadata)
    if not counts:
        counted = "label maps"
        counts = {n: shown[i] for i, n in enumerate(metadata.get("stuff_classes") or [])}
    total = annotations.total or sum(len(record.get("annotations", [])) for record in records)
    _compare(found, name, len(files), total)
    return Report(
        len(files),
        total,
        counts,
        counted,
        len(sample),
        [*annotations.findings, *found.list()],
        records,
    )


@dataclass(frozen=True)
class _Annotations:
    """What an annotation file says by itself."""

    findings: Sequence[Finding] = ()
    class_counts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    files: list[Record] = field(default_factory=list)


def _read_annotations(metadata: Metadata, found: Findings) -> _Annotations:
    """Check the JSON file that the metadata name, if they name one."""
    is_panoptic = metadata.get("panoptic_json") is not None
    path = metadata.get("panoptic_json") or metadata.get("json_file")
    if path is None:
        return _Annotations()
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        found.add("annotation file that cannot be read", [str(error)])
        return _Annotations()
    if is_panoptic:
        findings = check_panoptic(content)
        if any(finding.is_fatal for finding in findings):
            return _Annotations(findings)
        counts = count_segment_classes(content)
        return _Annotations(findings, counts, sum(counts.values()))
    findings = check_coco(content, metadata.get("evaluator_type") != "lvis")
    if metadata.name in PUBLISHED:  # COCO's training set has two such boxes: nothing to mend
        findings = [replace(f, is_error=f.is_error and f.kind != NO_AREA) for f in findings]
    if any(f.kind.startswith(("missing list", "file that holds")) for f in findings):
        return _Annotations(findings)
    root = metadata.get("image_root") or ""
    files = [
        {key: image[key] for key in ("height", "width") if key in image}
        | {"file_name": os.path.join(root, file_name)}
        for image in content["images"]
        if (file_name := _file_name(image)) is not None
    ]
    total = len(content.get("annotations", []))
    can_count = total and not any(finding.is_fatal for finding in findings)
    return _Annotations(findings, count_classes(content) if can_count else {}, total, files)


def _file_name(image: Any) -> str | None:
    """The path below the image root; LVIS gives the address of the image in COCO instead."""
    if not isinstance(image, dict):
        return None
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str):
        return name
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else None


def _load(name: str, found: Findings) -> list[Record]:
    """Load the records as training does; what the loader says against it is a finding."""
    try:
        return DatasetCatalog.get(name)
    except Exception as error:  # loaders of other packages raise anything
        text = " ".join(str(error).split())[:300]
        found.add("data set that cannot be loaded", [f"{type(error).__name__}: {text}"])
        return []


def _present(records: Sequence[Record], found: Findings) -> list[Record]:
    """Return the records all of whose files exist."""
    missing = {path: 1 for r in records for path in _paths(r) if not os.path.isfile(path)}
    found.add("file that does not exist", missing)
    return [record for record in records if missing.keys().isdisjoint(_paths(record))]


def _sample(records: list[Record], images: int | None, seed: int) -> list[Record]:
    if images is None or images >= len(records):
        return records
    return random.Random(seed).sample(records, images)


def _paths(record: Record) -> list[str]:
    keys = ("file_name", "sem_seg_file_name", "pan_seg_file_name")
    return [record[key] for key in keys if key in record]


@dataclass(frozen=True)
class _LabelRule:
    """Which values the label maps of a set may have.

    Attributes:
        num_classes: None if every value is one.
        ignore_label: legal too.
        allow_palette: see ``read_labels``.
        is_pasted: things lie over stuff, whose area is told as it was before, as ADE20K's
            protocol has it.
    """

    num_classes: int | None
    ignore_label: int
    allow_palette: bool
    is_pasted: bool

    @classmethod
    def of(cls, metadata: Metadata) -> "_LabelRule":
        classes = metadata.get("stuff_classes")
        return cls(
            None if classes is None else len(classes),
            metadata.get("ignore_label", 255),
            bool(metadata.get("palette_labels", False)),
            metadata.name.startswith("ade20k_panoptic_"),
        )


def _check_pixels(rule: _LabelRule, record: Record) -> tuple[list[tuple[str, str]], list[int]]:
    """Read the files of a record.

    Returns:
        What is wrong, as kind and text, and the classes that its label map shows.
    """
    problem = find_problem(record, rule.allow_palette)
    if problem is not None:
        text = f"{problem.path} ({problem.detail})" if problem.detail else problem.path
        return [(problem.kind, text)], []
    problems: list[tuple[str, str]] = []
    classes: list[int] = []
    if "sem_seg_file_name" in record:
        path = record["sem_seg_file_name"]
        values = np.unique(read_labels(path, rule.allow_palette))
        classes = [int(value) for value in values if value != rule.ignore_label]
        wrong = [c for c in classes if rule.num_classes is not None and c >= rule.num_classes]
        if wrong:
            kind = f"label map with a value that is no class of {rule.num_classes}"
            problems.append((kind, f"{path} has {wrong[:5]}"))
    if "pan_seg_file_name" in record:
        problems += _segment_problems(record, rule.is_pasted)
    return problems, classes


def _segment_problems(record: Record, is_pasted: bool) -> list[tuple[str, str]]:
    """Compares the segments of a PNG file with those that the JSON file tells."""
    path = record["pan_seg_file_name"]
    rgb = detection_utils.read_image(path, format="RGB")
    ids, counts = np.unique(rgb_to_ids(rgb), return_counts=True)
    drawn = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    drawn.pop(0, None)
    listed = {segment["id"]: segment for segment in record["segments_info"]}
    lower = {n for n, s in listed.items() if is_pasted and not s.get("isthing", True)}
    areas = {n: listed[n].get("area") for n in listed.keys() & drawn.keys() - lower}
    wrong = sorted(n for n, area in areas.items() if area is not None and area != drawn[n])
    missing = listed.keys() - drawn.keys()
    cases = (
        ("panoptic image with segments that the json lacks", "has", drawn.keys() - listed.keys()),
        ("panoptic image without segments that the json has", "lacks", missing - lower),
        (_COVERED, "lacks", missing & lower),
    )
    problems = [(kind, f"{path} {verb} {sorted(n)[:5]}") for kind, verb, n in cases if n]
    if wrong:
        told = ", ".join(f"{areas[n]} for {n}, which has {drawn[n]}" for n in wrong[:2])
        problems.append(("panoptic image with another area than the json says", f"{path}: {told}"))
    return problems


def _count_objects(records: Sequence[Record], metadata: Metadata) -> dict[str, int]:
    counts = Counter(a["category_id"] for r in records for a in r.get("annotations", []))
    if not counts:
        return {}
    names = metadata.get("thing_classes") or [str(n) for n in range(max(counts) + 1)]
    return {name: counts[number] for number, name in enumerate(names)}


def _compare(found: Findings, name: str, images: int, annotations: int) -> None:
    published = PUBLISHED.get(name)
    if published is None:
        return
    if images != published.images:
        found.add("other number of images", [f"{images}, published are {published.images}"])
    if published.annotations not in (None, annotations):
        text = f"{annotations}, published are {published.annotations}"
        found.add("other number of annotations", [text])
