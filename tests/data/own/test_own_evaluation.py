"""Evaluation alone: the val part, with the classes that a training on the same folder has."""

import shutil

import cv2
import numpy as np
import pytest
from own_folders import NAMES, THINGS, coco, label_maps, read, roboflow, write

from vitadapter_d2.data.own import OwnSource, prepare_own_data


def evaluated(root, kind):
    out = root.parent / "out"
    own = prepare_own_data(OwnSource(root), kind, out, needs_train=False, evaluated=(kind,))
    assert set(own.parts) == {"val"}
    return own


def list_one_class(file):
    """As tools write a part: the class that its first annotation has, numbered anew."""
    content = read(file)
    first = content["annotations"][0]
    segments = [a.get("segments_info", [a]) for a in content["annotations"]]
    used = first.get("segments_info", [first])[0]["category_id"]
    for segment in (s for group in segments for s in group):
        segment["category_id"] = 1
    kept = next(c for c in content["categories"] if c["id"] == used)
    write(file, {**content, "categories": [{**kept, "id": 1}]})


def test_objects_have_the_classes_of_the_train_part(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    list_one_class(root / "valid/_annotations.coco.json")
    own = evaluated(root, "instances")
    assert own.classes == prepare_own_data(OwnSource(root), "instances", tmp_path).classes
    assert own.classes.names == [*THINGS.values()] and "train" not in own.lines[0]


def test_masks_are_those_that_a_training_has(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    file = root / "train/_annotations.coco.json"
    content = read(file)
    content["annotations"][0]["segmentation"] = []
    write(file, content)
    assert not evaluated(root, "instances").classes.has_masks


@pytest.mark.parametrize("kind", ["panoptic", "semantic", "instances"])
def test_segments_have_the_classes_of_the_train_part(kind, shapes, tmp_path):
    root = coco(shapes, tmp_path / "mine", kinds=("panoptic",))
    list_one_class(root / "annotations/panoptic_val2017.json")
    names = [*THINGS.values()] if kind == "instances" else NAMES
    if kind == "instances":
        file = root / "annotations/panoptic_val2017.json"
        content = read(file)
        content["categories"][0] |= {"name": names[0], "isthing": 1}
        write(file, content)
    assert evaluated(root, kind).classes.names == names


def test_label_maps_have_the_classes_of_the_train_part(shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine", classes=False)
    for file in (root / "labels/val").iterdir():
        labels = np.zeros((64, 64), np.uint8)
        labels[:9] = 3
        cv2.imwrite(str(file), labels)
    assert len(evaluated(root, "semantic").classes) == 7


@pytest.mark.parametrize("kind", ["instances", "semantic"])
def test_without_the_files_of_the_train_part_the_val_part_tells(kind, shapes, tmp_path):
    root = (roboflow if kind == "instances" else label_maps)(shapes, tmp_path / "mine")
    folder = root / ("train" if kind == "instances" else "images/train")
    for image in folder.glob("*.png"):
        image.unlink()
    own = evaluated(root, kind)
    assert any("files of the train part are missing" in note for note in own.notes)
    with pytest.raises(FileNotFoundError):
        prepare_own_data(OwnSource(root), kind, tmp_path / "out")


def test_a_part_that_is_held_out_is_evaluated(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    shutil.rmtree(root / "valid")
    source = OwnSource(root, val_fraction=0.3)
    own = prepare_own_data(source, "instances", tmp_path / "out", needs_train=False)
    whole = prepare_own_data(source, "instances", tmp_path / "out")
    assert own.parts == {"val": whole.parts["val"]} and own.classes == whole.classes
