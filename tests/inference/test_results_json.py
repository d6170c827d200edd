import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitadapter_d2.inference.results_json import write_results
from vitadapter_d2.inference.selection import select

SIZE = (40, 60)
METADATA = Metadata(
    name="results",
    thing_classes=["disc", "square"],
    stuff_classes=["disc", "square", "ground"],
    thing_dataset_id_to_contiguous_id={17: 0, 23: 1},
    stuff_dataset_id_to_contiguous_id={17: 0, 23: 1, 90: 2},
)


@pytest.fixture
def masks():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = ((y - 20) ** 2 + (x - 20) ** 2 < 144) & ((y - 20) ** 2 + (x - 20) ** 2 > 16)
    square = (abs(y - 30) < 6) & (abs(x - 50) < 5)
    return torch.from_numpy(np.stack([ring, square]))


@pytest.fixture
def prediction(masks):
    ids = torch.full(SIZE, 300, dtype=torch.int32)
    ids[masks[0]], ids[masks[1]], ids[:2] = 1, 70000, 0
    infos = [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.9},
        {"id": 70000, "isthing": True, "category_id": 1},
        {"id": 300, "isthing": False, "category_id": 2},
    ]
    labels = torch.full(SIZE, 2)
    labels[masks[0]], labels[masks[1]] = 0, 1
    return {
        "instances": Instances(
            SIZE,
            pred_masks=masks,
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
            scores=torch.tensor([0.9, 0.6]),
            pred_classes=torch.tensor([0, 1]),
        ),
        "panoptic_seg": (ids, infos),
        "sem_seg": torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float(),
    }


def written(folder, prediction, metadata=METADATA):
    path = folder / "v1.photo.json"
    write_results(path, prediction, metadata, file_name="x/v1.photo.jpg", size=SIZE)
    return json.loads(path.read_text())


def test_instances_come_back_through_pycocotools(tmp_path, prediction, masks, capsys):
    results = written(tmp_path, prediction)
    assert (results["file_name"], results["height"], results["width"]) == ("x/v1.photo.jpg", 40, 60)
    for result, mask in zip(results["instances"], masks.numpy(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]).astype(bool), mask)
        tight = coco_mask.toBbox(result["segmentation"]).tolist()
        assert result["bbox"] == tight
    first = results["instances"][0]
    assert (first["category_id"], first["category"], first["score"]) == (17, "disc", 0.9)


def test_instances_are_what_coco_evaluates(tmp_path, prediction):
    results = written(tmp_path, prediction)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 4, "height": 40, "width": 60}],
        "categories": [{"id": 17, "name": "disc"}, {"id": 23, "name": "square"}],
        "annotations": [
            {
                **result,
                "id": number,
                "image_id": 4,
                "iscrowd": 0,
                "area": float(coco_mask.area(result["segmentation"])),
            }
            for number, result in enumerate(results["instances"], 1)
        ],
    }
    truth.createIndex()
    found = truth.loadRes([{**result, "image_id": 4} for result in results["instances"]])
    for kind in ("segm", "bbox"):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


def test_panoptic_ids_come_back(tmp_path, prediction):
    panoptic = written(tmp_path, prediction)["panoptic"]
    assert panoptic["file_name"] == "v1.photo.panoptic.png"
    blue, green, red = cv2.split(cv2.imread(str(tmp_path / panoptic["file_name"])).astype(int))
    ids = red + 256 * green + 65536 * blue
    np.testing.assert_array_equal(ids, prediction["panoptic_seg"][0].numpy())
    for info in panoptic["segments_info"]:
        y, x = np.nonzero(ids == info["id"])
        assert info["area"] == len(y)
        assert info["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    told = [(info["category_id"], info["isthing"]) for info in panoptic["segments_info"]]
    assert told == [(17, True), (23, True), (90, False)]
    assert [info.get("score") for info in panoptic["segments_info"]] == [0.9, None, None]


def test_semantic_labels_come_back(tmp_path, prediction):
    semantic = written(tmp_path, prediction)["semantic"]
    labels = cv2.imread(str(tmp_path / semantic["file_name"]), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, prediction["sem_seg"].argmax(0).numpy())
    areas = np.bincount(labels.ravel())
    assert [(entry["label"], entry["area"]) for entry in semantic["classes"]] == [
        (2, areas[2]),
        (0, areas[0]),
        (1, areas[1]),
    ]
    assert [entry["category"] for entry in semantic["classes"]] == ["ground", "disc", "square"]
    assert semantic["classes"][0]["category_id"] == 90


def test_what_is_not_chosen_is_ignored(tmp_path, prediction, masks):
    results = written(tmp_path, select(prediction, METADATA, classes={"square"}))
    assert [result["category"] for result in results["instances"]] == ["square"]
    assert [info["id"] for info in results["panoptic"]["segments_info"]] == [70000]
    assert [entry["category"] for entry in results["semantic"]["classes"]] == ["square"]
    labels = cv2.imread(str(tmp_path / "v1.photo.semantic.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels == 1, masks[1].numpy())
    assert set(np.unique(labels)) == {1, results["semantic"]["ignore_label"]}


@pytest.mark.parametrize(("count", "depth"), [(255, np.uint8), (256, np.uint16)])
def test_many_classes_need_16_bits(tmp_path, count, depth):
    scores = torch.zeros(count, *SIZE)
    scores[count - 1] = 1
    semantic = written(tmp_path, {"sem_seg": scores}, Metadata(name="nameless"))["semantic"]
    labels = cv2.imread(str(tmp_path / semantic["file_name"]), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == depth
    assert semantic["ignore_label"] == np.iinfo(depth).max
    assert (labels == count - 1).all()
    name = str(count - 1)
    expected = {"label": count - 1, "category_id": count - 1, "category": name, "area": 2400}
    assert semantic["classes"] == [expected]


def test_boxes_alone_have_no_segmentation(tmp_path):
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor([[1.5, 2.0, 11.25, 7.0]])),
        scores=torch.tensor([0.5]),
        pred_classes=torch.tensor([1]),
    )
    results = written(tmp_path, {"instances": instances})
    assert results["instances"] == [
        {"category_id": 23, "category": "square", "score": 0.5, "bbox": [1.5, 2.0, 9.75, 5.0]}
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1.photo.json"]
    empty = written(tmp_path, {"instances": instances[:0]})
    assert empty["instances"] == []
