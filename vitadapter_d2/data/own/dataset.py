"""A user's own data as registered data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json

from vitadapter_d2.data.datasets.registration import (
    PanopticPaths,
    Record,
    load_panoptic_records,
    register_once,
)
from vitadapter_d2.data.own.classes import OwnClasses
from vitadapter_d2.data.own.layouts import OwnSource

_MOST_NAMES = 20


@dataclass(frozen=True)
class OwnPart:
    """One part of the data, ready to be registered; it holds paths, no annotations.

    Attributes:
        images: folder of the images.
        num_images: how many.
        json_file: objects in COCO's format.
        panoptic_json: segments in COCO's format.
        panoptic: folder of their PNG files.
        semantic: folder of label maps made of them.
        pairs: images and label maps.
    """

    images: str
    num_images: int
    json_file: str = ""
    panoptic_json: str = ""
    panoptic: str = ""
    semantic: str = ""
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class OwnData:
    """A user's data set, found, checked and put in order; :meth:`register` makes it known.

    Attributes:
        classes: of both parts.
        parts: under ``train`` (not needed for evaluation alone) and ``val``.
        has_run_lengths: a mask is no polygon.
        lines: what was found, two lines.
        notes: what was mended or left out.
    """

    classes: OwnClasses
    parts: dict[str, OwnPart]
    has_run_lengths: bool = False
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def register(self) -> dict[str, str]:
        """Registers the parts in this process.

        Returns:
            The registered name of each part; another data set has others.
        """
        return {part: self._register(part, own) for part, own in self.parts.items()}

    def _register(self, part: str, own: OwnPart) -> str:
        # With "coco" in it, Detectron2 does not warn of ids that it maps: that is meant.
        name = f"own_coco_{self.classes.digest(own)}_{part}"
        if name in DatasetCatalog:
            return name
        values: dict[str, Any] = {**self.classes.metadata(), "image_root": own.images}
        if self.classes.kind == "panoptic":
            paths = PanopticPaths(
                own.images, own.panoptic_json, own.panoptic, own.semantic, own.json_file
            )
            load = partial(_panoptic_records, paths, self.classes)
            values |= {
                "evaluator_type": "coco_panoptic_seg",
                "panoptic_root": own.panoptic,
                "panoptic_json": own.panoptic_json,
                "label_divisor": 1000,
            }
        elif self.classes.kind == "semantic":
            load = partial(_semantic_records, own.pairs)
            values |= {"evaluator_type": "sem_seg", "palette_labels": True}
        else:
            load = partial(load_coco_json, own.json_file, own.images, name)
            values |= {"evaluator_type": "coco"}
        if own.json_file:
            values["json_file"] = own.json_file
        register_once(name, load, **values)
        return name


def told(
    source: OwnSource,
    found: Mapping[str, Path],
    classes: OwnClasses,
    parts: Mapping[str, OwnPart],
    counts: Mapping[str, str],
) -> tuple[str, str]:
    """Two lines: where and which classes, how many.

    Args:
        source: where the user said that the data are.
        found: the annotations of each part.
        classes: of all parts.
        parts: to be told of.
        counts: how many annotations each part has, in words.
    """
    root, places = source.folder, [found[part] for part in parts]
    files = [str(f.relative_to(root) if root and root in f.parents else f) for f in places]
    names = classes.names[:_MOST_NAMES]
    more = f" and {len(classes) - len(names)} more" if len(classes) > len(names) else ""
    how = "" if len(set(files)) > 1 or len(parts) == 1 else ", divided into train and val"
    word = "class" if len(classes) == 1 else "classes"
    return (
        f"{source.title}: {classes.kind} from {' and '.join(dict.fromkeys(files))}{how}; "
        f"{len(classes)} {word}: {', '.join(names)}{more}",
        "; ".join(
            f"{part}: {one.num_images} images, {counts[part]}" for part, one in parts.items()
        ),
    )


def _semantic_records(pairs: tuple[tuple[str, str], ...]) -> list[Record]:
    return [{"file_name": image, "sem_seg_file_name": label} for image, label in pairs]


def _panoptic_records(paths: PanopticPaths, classes: OwnClasses) -> list[Record]:
    records = load_panoptic_records(paths, classes.categories)
    if not paths.semantic:
        for record in records:
            del record["sem_seg_file_name"]
    return records
