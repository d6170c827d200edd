"""What Detectron2, and this project around it, make of odd annotations."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from vitadapter_d2.data.datasets.coco_records import load_coco_records

SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
CROWD = {"size": [20, 30], "counts": [400, 100, 100]}


class Folder:
    """Three images: an object each on two, a crowd on the first, none on the third."""

    def __init__(self, root: Path) -> None:
        self.root = root
        good = {"category_id": 3, "bbox": [2, 2, 10, 10], "segmentation": [SQUARE], "iscrowd": 0}
        crowd = {"bbox": [20, 0, 5, 20], "segmentation": CROWD, "iscrowd": 1}
        self.content: dict[str, Any] = {
            "images": [
                {"id": n, "file_name": f"{n}.png", "height": 20, "width": 30} for n in (1, 2, 3)
            ],
            "categories": [{"id": 3, "name": "bolt"}, {"id": 5, "name": "belt"}],
            "annotations": [
                {"id": 1, "image_id": 1, "area": 100, **good},
                {"id": 2, "image_id": 2, "area": 100, **good},
                {"id": 3, "image_id": 1, "area": 100, **good, **crowd},
            ],
        }
        for n in (1, 2, 3):
            Image.fromarray(np.full((20, 30, 3), n, np.uint8)).save(root / f"{n}.png")

    @property
    def first(self) -> dict[str, Any]:
        return self.content["annotations"][0]

    def load(self, loader=load_coco_records) -> list[dict[str, Any]]:
        path = self.root / "odd.json"
        path.write_text(json.dumps(self.content))
        return loader(str(path), str(self.root), "odd")


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    DatasetCatalog.register("odd", folder.load)
    yield folder
    DatasetCatalog.remove("odd")
    MetadataCatalog.pop("odd", None)


def mapped(record: dict[str, Any]) -> Instances:
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    return mapper(record)["instances"]


def test_crowds_are_kept_in_the_records_and_left_out_of_training(odd):
    record = odd.load()[0]
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 1]
    assert mapped(record).gt_boxes.tensor.tolist() == [[2, 2, 12, 12]]
    odd.content["annotations"][1]["iscrowd"] = 1
    assert [r["image_id"] for r in get_detection_dataset_dicts("odd")] == [1]


def test_crowds_are_ignored_in_evaluation(odd, tmp_path):
    """As pycocotools does: a detection inside of a crowd is no false one."""
    odd.content["annotations"] += [
        {"id": n, "image_id": 3, "category_id": 5, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
        for n in (4,)
    ]
    odd.load()
    MetadataCatalog.get("odd").json_file = str(odd.root / "odd.json")
    precision = {}
    for name, inside in (("crowd", [21, 3, 24, 15]), ("nowhere", [14, 3, 17, 15])):
        evaluator = COCOEvaluator("odd", ("bbox",), False, str(tmp_path), use_fast_impl=False)
        evaluator.reset()
        for image_id, boxes, classes in (
            (1, [inside, [2, 2, 12, 12]], [0, 0]),
            (2, [[2, 2, 12, 12]], [0]),
            (3, [[0, 0, 9, 9]], [1]),
        ):
            instances = Instances((20, 30))
            instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            instances.scores = torch.linspace(0.9, 0.8, len(boxes))
            instances.pred_classes = torch.tensor(classes)
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        precision[name] = evaluator.evaluate()["bbox"]["AP"]
    assert precision["crowd"] == pytest.approx(100)
    assert precision["nowhere"] < 95


@pytest.mark.parametrize("box", [[2, 2, 0, 10], [2, 2, 10, 0], [2, 2, -3, 10], [40, 2, 5, 5]])
def test_boxes_without_area_give_no_training_target(odd, box):
    odd.first["bbox"] = box
    record = odd.load()[0]
    assert len(record["annotations"]) == 2
    assert len(mapped(record)) == 0


def test_images_without_annotation_are_filtered_or_empty(odd):
    records = odd.load()
    assert len(records) == 3
    assert len(mapped(records[2])) == 0
    assert [r["image_id"] for r in get_detection_dataset_dicts("odd")] == [1, 2]
    assert len(get_detection_dataset_dicts("odd", filter_empty=False)) == 3


def test_annotations_of_images_that_are_not_listed_are_ignored_with_a_warning(odd, caplog):
    odd.first["image_id"] = 9
    with caplog.at_level(logging.WARNING):
        records = odd.load()
    assert [len(r["annotations"]) for r in records] == [1, 1, 0]
    assert "annotation of an image that is not listed: annotation 1 of image 9" in caplog.text


def set_category(odd):
    odd.first["category_id"] = 4


def repeat_annotation(odd):
    odd.first["id"] = 2


def repeat_image(odd):
    odd.content["images"][1]["id"] = 1


def remove_box(odd):
    del odd.first["bbox"]


def remove_height(odd):
    del odd.content["images"][0]["height"]


def remove_categories(odd):
    odd.content["categories"] = []


REFUSED = [  # what is odd, what Detectron2 raises (None: it goes on), what is said here
    (set_category, KeyError, "unknown category id, legal ones are 3, 5: annotation 1 has 4"),
    (repeat_annotation, AssertionError, "annotation id that occurs more than once: 2"),
    (repeat_image, None, "image id that occurs more than once: 1"),
    (remove_box, None, "annotation without bbox: annotation 1"),
    (remove_height, KeyError, "image without height: image 1"),
    (remove_categories, ValueError, "file without a category"),
]


@pytest.mark.parametrize(("change", "theirs", "message"), REFUSED)
def test_what_has_no_meaning_is_refused_with_its_name(odd, change, theirs, message):
    change(odd)
    if theirs is None:
        odd.load(load_coco_json)
    else:
        with pytest.raises(theirs):
            odd.load(load_coco_json)
    with pytest.raises(ValueError, match=r"odd\.json cannot be used") as refused:
        odd.load()
    assert message in str(refused.value)


def test_detectron2_mixes_up_images_of_the_same_id(odd):
    """When this fails, that part of the loader can go."""
    repeat_image(odd)
    records = odd.load(load_coco_json)
    assert [(r["file_name"][-5:], len(r["annotations"])) for r in records] == [
        ("2.png", 2),
        ("3.png", 0),
    ]


def test_an_object_without_a_mask_does_not_end_the_training(odd):
    odd.content["annotations"].append({**odd.first, "id": 4, "segmentation": []})
    with pytest.raises(KeyError, match="segmentation"):  # when this fails, the loader can go
        mapped(odd.load(load_coco_json)[0])
    instances = mapped(odd.load()[0])
    assert len(instances) == len(instances.gt_masks) == 1


def test_objects_without_any_mask_are_kept(odd):
    for annotation in odd.content["annotations"]:
        del annotation["segmentation"]
    assert [len(record["annotations"]) for record in odd.load()] == [2, 1, 0]


def test_a_damaged_or_missing_file_is_named(odd, tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"half\.json cannot be read as JSON"):
        load_coco_records(str(path), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        load_coco_records(str(tmp_path / "none.json"), str(tmp_path))
