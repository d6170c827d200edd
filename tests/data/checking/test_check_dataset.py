"""Damage done to a generated set, and what the check says about it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from PIL import Image

from vitadapter_d2.data.checking.coco import NO_AREA
from vitadapter_d2.data.checking.dataset import Report, check_dataset
from vitadapter_d2.data.datasets import register_shapes
from vitadapter_d2.data.datasets.published import PUBLISHED, Published
from vitadapter_d2.data.datasets.registration import (
    Category,
    SemanticPaths,
    load_semantic_records,
    register_semantic,
)

NAMES = [f"hurt_{split}{kind}" for split in ("train", "val") for kind in ("", "_panoptic")]
IMAGE = "images/val/000003.png"


@pytest.fixture
def hurt(tiny_root: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the tiny set, registered as ``hurt_*``, ``hurt_val_sem_seg`` and its objects."""
    root = tmp_path / "hurt"
    shutil.copytree(tiny_root, root)
    register_shapes(str(root), prefix="hurt")
    paths = SemanticPaths(
        str(root / "images" / "val"), str(root / "semantic_val"), image_suffix=".png"
    )
    categories = [Category(i, f"class {i}", (i, i, i), False) for i in range(12)]
    register_semantic("hurt_val_sem_seg", paths, categories)
    yield root
    for name in (*NAMES, "hurt_val_sem_seg"):
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def errors(report: Report) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.examples for finding in report.errors}


def edit(root: Path, kind: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "annotations" / f"{kind}_val.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("name", ["hurt_val", "hurt_val_panoptic", "hurt_val_sem_seg"])
def test_a_good_set_has_no_errors_and_right_counts(hurt, name):
    report = check_dataset(name, images=None, workers=0)
    assert not report.errors
    assert report.images == report.decoded == len(report.records) == 8
    instances = json.loads((hurt / "annotations" / "instances_val.json").read_text())
    things = len(instances["annotations"])
    if name == "hurt_val":
        assert report.annotations == sum(report.class_counts.values()) == things
        assert list(report.class_counts) == MetadataCatalog.get(name).thing_classes
    elif name == "hurt_val_panoptic":
        assert report.annotations == sum(report.class_counts.values()) > things
    else:
        shown = [np.unique(np.asarray(Image.open(f))) for f in (hurt / "semantic_val").iterdir()]
        expected = [sum(c in values for values in shown) for c in range(12)]
        assert list(report.class_counts.values()) == expected
        assert report.counted == "label maps"


def test_processes_agree_and_the_sample_is_limited(hurt):
    whole = check_dataset("hurt_val_panoptic", images=None, workers=0)
    assert check_dataset("hurt_val_panoptic", images=None, workers=2) == whole
    cut(hurt / IMAGE)
    reports = [check_dataset("hurt_val", images=3, workers=0, seed=seed) for seed in range(12)]
    assert {report.decoded for report in reports} == {3}
    assert {len(report.errors) for report in reports} == {0, 1}
    assert check_dataset("hurt_val", images=0, workers=0).errors == []


@pytest.mark.parametrize("name", ["hurt_val", "hurt_val_panoptic", "hurt_val_sem_seg"])
def test_damaged_and_missing_images_are_named(hurt, name):
    cut(hurt / IMAGE)
    (damaged,) = errors(check_dataset(name, images=None, workers=0)).items()
    assert damaged[0] == "damaged image" and IMAGE in damaged[1][0]
    (hurt / IMAGE).unlink()
    found = errors(check_dataset(name, images=0, workers=0))
    if name == "hurt_val_sem_seg":
        assert IMAGE in found["data set that cannot be loaded"][0]
    else:
        assert found == {"file that does not exist": (str(hurt / IMAGE),)}


def test_a_wrong_size_is_named(hurt):
    Image.fromarray(np.zeros((96, 90, 3), np.uint8)).save(hurt / IMAGE)
    ((kind, texts),) = errors(check_dataset("hurt_val", images=None, workers=0)).items()
    assert kind == "wrong size of image"
    assert IMAGE in texts[0] and "90 x 96 pixels, its annotations say 96 x 96" in texts[0]


def test_values_outside_of_the_classes_are_named(hurt):
    path = hurt / "semantic_val" / "000002.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[0, :3] = 12, 200, 255
    Image.fromarray(labels).save(path)
    for name in ("hurt_val_panoptic", "hurt_val_sem_seg"):
        ((kind, texts),) = errors(check_dataset(name, images=None, workers=0)).items()
        assert kind == "label map with a value that is no class of 12"
        assert texts == (f"{path} has [12, 200]",)


def test_panoptic_images_and_segments_must_agree(hurt):
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"][0]["id"] = 777

    edit(hurt, "panoptic", change)
    found = errors(check_dataset("hurt_val_panoptic", images=None, workers=0))
    assert set(found) == {
        "panoptic image with segments that the json lacks",
        "panoptic image without segments that the json has",
    }
    assert found["panoptic image without segments that the json has"][0].endswith("lacks [777]")


def test_the_area_of_segments_is_that_of_their_pixels(hurt):
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"][0]["area"] = 7
        del content["annotations"][1]["segments_info"][0]["area"]

    edit(hurt, "panoptic", change)
    found = errors(check_dataset("hurt_val_panoptic", images=None, workers=0))
    assert len(found["segment without area, which the panoptic metrics need"]) == 1
    (text,) = found.pop("panoptic image with another area than the json says")
    assert "000001.png: 7 for " in text and len(found) == 1


def test_a_box_without_area_is_no_error_of_a_published_set(hurt, monkeypatch):
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1]["bbox"][2] = 0

    edit(hurt, "instances", change)
    assert set(errors(check_dataset("hurt_val", images=0, workers=0))) == {NO_AREA}
    monkeypatch.setitem(PUBLISHED, "hurt_val", Published(8))
    report = check_dataset("hurt_val", images=0, workers=0)
    assert not report.errors and NO_AREA in {finding.kind for finding in report.findings}


def test_errors_of_the_annotations_are_named_although_the_loader_refuses_them(hurt):
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = 99
        content["annotations"][1]["bbox"][2] = 0
        content["annotations"][2]["id"] = content["annotations"][3]["id"]

    edit(hurt, "instances", change)
    cut(hurt / IMAGE)
    found = errors(check_dataset("hurt_val", images=None, workers=0))
    assert set(found) == {
        "unknown category id, legal ones are 1 to 8",
        "box of zero or negative area",
        "annotation id that occurs more than once",
        "data set that cannot be loaded",
        "damaged image",  # the files are found without the loader
    }


@pytest.mark.parametrize(("name", "kind"), [("hurt_val", "instances"),
                                            ("hurt_val_panoptic", "panoptic")])  # fmt: skip
def test_a_missing_or_damaged_annotation_file_is_named(hurt, name, kind):
    path = hurt / "annotations" / f"{kind}_val.json"
    cut(path)
    found = errors(check_dataset(name, images=0, workers=0))
    assert f"{path} cannot be read as JSON" in found["annotation file that cannot be read"][0]
    path.unlink()
    found = errors(check_dataset(name, images=0, workers=0))
    assert found["annotation file that cannot be read"] == (f"{path} does not exist",)


def test_images_without_annotation_are_a_note(hurt):
    def change(content: dict[str, Any]) -> None:
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]

    edit(hurt, "instances", change)
    report = check_dataset("hurt_val", images=0, workers=0)
    assert not report.errors
    assert [str(f) for f in report.findings] == ["1 x image without annotation: 000001.png"]


def test_an_incomplete_set_is_noticed_by_the_published_numbers(hurt, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "hurt_val", Published(5000, 36781))
    report = check_dataset("hurt_val", images=0, workers=0)
    assert errors(report) == {
        "other number of images": ("8, published are 5000",),
        "other number of annotations": (f"{report.annotations}, published are 36781",),
    }


def test_published_numbers_belong_to_registered_sets():
    assert set(PUBLISHED) <= set(DatasetCatalog.list())
    assert PUBLISHED["coco_2017_val"] == Published(5000, 36781)
    assert PUBLISHED["objects365_v2_val"] == Published(80000)
    assert PUBLISHED["ade20k_panoptic_train"] == Published(20210)


def test_images_of_lvis_are_found_by_their_addresses(tiny_root, tmp_path):
    """Without the package lvis too, which the loader needs."""
    images = [
        {
            "id": number,
            "coco_url": f"http://images.cocodataset.org/val/{number:06d}.png",
            "height": 96,
            "width": 96,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for number in (1, 2, 99)
    ]
    content = {"images": images, "categories": [{"id": 1, "name": "acorn"}], "annotations": []}
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    name, root = "lvis_v1_tiny", str(tiny_root / "images")
    register_lvis_instances(name, {"thing_classes": ["acorn"]}, str(path), root)
    try:
        report = check_dataset(name, images=None, workers=0)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert (report.images, report.decoded) == (3, 2)
    missing = os.path.join(root, "val", "000099.png")
    assert errors(report)["file that does not exist"] == (missing,)


def test_stuff_maps_of_htc_have_values_up_to_181(tmp_path):
    name = "coco_2017_val_stuffthing"
    images, labels = tmp_path / "images", tmp_path / "labels"
    for number, value in enumerate((0, 11, 181, 182)):
        for folder, size in ((images, (4, 4, 3)), (labels, (4, 4))):
            folder.mkdir(exist_ok=True)
            picture = np.full(size, value if folder is labels else 9, np.uint8)
            suffix = "png" if folder is labels else "jpg"
            Image.fromarray(picture).save(folder / f"{number}.{suffix}")
    loader = DatasetCatalog.pop(name)
    paths = SemanticPaths(str(images), str(labels))
    DatasetCatalog.register(name, lambda: load_semantic_records(paths))
    try:
        report = check_dataset(name, images=None, workers=0)
    finally:
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, loader)
    found = errors(report)
    assert found.pop("other number of images") == ("4, published are 5000",)
    assert found == {
        "label map with a value that is no class of 182": (f"{labels / '3.png'} has [182]",)
    }
    assert report.class_counts["person"] == report.class_counts["street sign"] == 1


def test_an_unknown_name_comes_with_the_three_nearest():
    with pytest.raises(
        ValueError, match="no data set is registered as 'coco_2017_vall'"
    ) as refused:
        check_dataset("coco_2017_vall")
    nearest = str(refused.value).split("names are ")[1].split(", ")
    assert len(nearest) == 3 and nearest[0] == "coco_2017_val"
