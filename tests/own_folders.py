"""Data sets as users have them, made of the generated one: other names, ids and layouts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from vitadapter_d2.data.datasets import ShapesSpec, generate

# As a user's tool numbers them: neither from 0 nor without gaps, and not as many as in the configs.
THINGS = {3: "bolt", 7: "hex nut", 20: "washer M8", 21: "spring", 90: "o-ring"}
STUFF = {101: "belt", 102: "floor"}
NAMES = [*THINGS.values(), *STUFF.values()]
_GENERATED = (*range(1, 9), *range(101, 105))  # ids, in the order of the label maps' values
_NEW_ID = {
    old: [*THINGS][old % len(THINGS)] if old < 100 else [*STUFF][old % len(STUFF)]
    for old in _GENERATED
}
_NEW_LABEL = np.array([[*THINGS, *STUFF].index(_NEW_ID[old]) for old in _GENERATED], np.uint8)

Json = dict[str, Any]


def make_shapes(root: Path, train: int = 24, val: int = 6, size: int = 64) -> Path:
    generate(root, ShapesSpec(train=train, val=val, size=size, seed=5), workers=0)
    return root


def renamed(content: Json) -> Json:
    """Annotations of the generated set with the user's classes."""
    content = json.loads(json.dumps(content))
    is_panoptic = len(content["categories"]) > 8
    content["categories"] = [
        {"id": number, "name": name, "isthing": int(number in THINGS)}
        for number, name in (THINGS | STUFF if is_panoptic else THINGS).items()
    ]
    for annotation in content["annotations"]:
        for part in annotation.get("segments_info", [annotation]):
            part["category_id"] = _NEW_ID[part["category_id"]]
    return content


def as_polygons(content: Json) -> Json:
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        largest = max(contours, key=len).reshape(-1).tolist()
        annotation["segmentation"] = [largest if len(largest) >= 6 else [*largest, *largest[:2]]]
    return content


def as_boxes(content: Json) -> Json:
    """As Roboflow exports boxes."""
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    return content


def roboflow(
    shapes: Path, root: Path, change: Callable[[Json], Json] = lambda content: content
) -> Path:
    """``train/_annotations.coco.json`` beside the images, ``valid`` likewise; ids from 0."""
    for part, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(shapes / "images" / part, root / folder)
        content = change(renamed(read(shapes / f"annotations/instances_{part}.json")))
        parent = {"id": 0, "name": "parts", "supercategory": "none"}
        for category in content["categories"]:
            category["supercategory"] = "parts"
        content["categories"].insert(0, parent)
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = number
        write(root / folder / "_annotations.coco.json", content)
    return root


def coco(
    shapes: Path,
    root: Path,
    change: Callable[[Json], Json] = lambda content: content,
    kinds: tuple[str, ...] = ("instances",),
) -> Path:
    """``annotations/instances_train2017.json``, ``train2017`` and so on."""
    for part in ("train", "val"):
        shutil.copytree(shapes / "images" / part, root / f"{part}2017")
        for kind in kinds:
            content = change(renamed(read(shapes / f"annotations/{kind}_{part}.json")))
            write(root / f"annotations/{kind}_{part}2017.json", content)
        if "panoptic" in kinds:
            shutil.copytree(shapes / f"panoptic_{part}", root / f"annotations/panoptic_{part}2017")
    return root


def label_maps(shapes: Path, root: Path, labels: str = "labels", classes: bool = True) -> Path:
    """``images/train`` and ``labels/train`` with, or without, ``classes.txt``."""
    for part in ("train", "val"):
        shutil.copytree(shapes / "images" / part, root / "images" / part)
        (root / labels / part).mkdir(parents=True)
        for file in (shapes / f"semantic_{part}").iterdir():
            old = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(root / labels / part / file.name), _NEW_LABEL[old])
    if classes:
        (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def roboflow_masks(shapes: Path, root: Path) -> Path:
    """``train/a.png``, ``train/a_mask.png`` and ``train/_classes.csv``; ``valid`` likewise."""
    for part, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(shapes / "images" / part, root / folder)
        for file in (shapes / f"semantic_{part}").iterdir():
            labels = _NEW_LABEL[cv2.imread(str(file), cv2.IMREAD_UNCHANGED)]
            cv2.imwrite(str(root / folder / f"{file.stem}_mask.png"), labels)
        rows = [f"{number}, {name}" for number, name in enumerate(NAMES)]
        text = "\n".join(["Pixel Value, Class", *rows])
        (root / folder / "_classes.csv").write_text(text + "\n")
    return root


def read(path: Path) -> Json:
    return json.loads(path.read_text())


def write(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
