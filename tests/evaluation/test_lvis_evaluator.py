"""LVIS: the evaluator on a tiny tree in its layout, and the sampler of its config."""

import builtins
import json

import numpy as np
import pytest
import torch
from detections import HEIGHT, WIDTH, annotations, detections
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import lvis as lvis_of_detectron2
from detectron2.data.datasets import register_lvis_instances
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image

from vitadapter_d2 import model_zoo
from vitadapter_d2.evaluation import LVISEvaluator

CONFIG = "lvis/mask_rcnn_deit_adapter_small_fpn_2x_lvis"
NAME = "lvis_v1_own_val"


@pytest.fixture
def lvis(tmp_path):
    """Twelve images of four classes below ``val2017``, registered as LVIS is."""
    content = annotations(np.random.default_rng(5), images=12, classes=4, most_objects=8)
    for category in content["categories"]:
        category["id"] //= 10
        category.update(frequency="rcff"[category["id"] - 1], image_count=3)
    for part in content["annotations"]:
        part["category_id"] //= 10
        del part["iscrowd"]
        x, y, w, h = part["bbox"]
        part["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        part["area"] = w * h
    (tmp_path / "val2017").mkdir()
    for image in content["images"]:
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({1, 2, 3, 4} - present)
        image["not_exhaustive_category_ids"] = []
        picture = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
        Image.fromarray(picture).save(tmp_path / "val2017" / f"{image['id']}.png")
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content))
    register_lvis_instances(NAME, {}, str(path), f"{tmp_path}/")
    yield content
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def given(results, image):
    own = [result for result in results if result["image_id"] == image]
    found = Instances((HEIGHT, WIDTH))
    boxes = torch.tensor([result["bbox"] for result in own]).reshape(-1, 4)
    found.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1))
    found.scores = torch.tensor([result["score"] for result in own])
    found.pred_classes = torch.tensor([result["category_id"] - 1 for result in own])
    masks = torch.zeros(len(own), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, box in zip(masks, found.pred_boxes.tensor.round().int().clamp(min=0), strict=True):
        left, top, right, bottom = box.tolist()
        mask[top:bottom, left:right] = True
    found.pred_masks = masks
    return found


def evaluate(results):
    evaluator = LVISEvaluator(NAME, max_dets_per_image=300)
    evaluator.reset()
    for image in range(12):
        evaluator.process([{"image_id": image}], [{"instances": given(results, image)}])
    return evaluator.evaluate()


def test_the_objects_themselves_have_full_marks(lvis):
    results = evaluate([{**part, "score": 0.9} for part in lvis["annotations"]])
    for task in ("bbox", "segm"):
        assert results[task]["AP50"] == pytest.approx(100)
        assert {"AP", "APr", "APc", "APf"} <= results[task].keys()
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_noise_costs(lvis):
    results = detections(np.random.default_rng(1), lvis, count=20)
    for result in results:
        category = result["category_id"]  # one of COCO's in this test, or of the object near by
        result["category_id"] = category if category < 10 else category // 10
    assert 0 <= evaluate(results)["bbox"]["AP"] < 60


def test_without_the_package_it_says_what_to_install(lvis, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("lvis"):
            raise ModuleNotFoundError("No module named 'lvis'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps lvis"):
        LVISEvaluator(NAME)


def test_the_config_repeats_rare_classes_and_trains(lvis, monkeypatch):
    cfg = model_zoo.get_config(CONFIG)
    assert cfg.model.roi_heads.num_classes == 1203
    assert cfg.model.roi_heads.box_predictor.test_score_thresh == 1e-4
    assert cfg.model.roi_heads.box_predictor.test_topk_per_image == 300
    assert cfg.dataloader.evaluator[0].dataset_name == "lvis_v1_val"
    train = cfg.dataloader.train
    train.dataset.names = NAME
    assert train.repeat_thresh == 0.001
    train.repeat_thresh = 0.9
    records = instantiate(train.dataset)
    train.total_batch_size, train.num_workers = 2, 0
    train.mapper.augmentations = []
    read = []
    load = lvis_of_detectron2.load_lvis_json
    monkeypatch.setattr(lvis_of_detectron2, "load_lvis_json", lambda *a: read.append(a) or load(*a))
    loader = instantiate(train)
    assert len(read) == 1  # a gigabyte in training
    factors = loader.sampler._int_part + loader.sampler._frac_part
    assert len(factors) == len(records) == 11  # one image has no objects
    frequency = {
        label: np.mean([label in {a["category_id"] for a in r["annotations"]} for r in records])
        for label in range(4)
    }
    for factor, record in zip(factors.tolist(), records, strict=True):
        rarest = min(frequency[part["category_id"]] for part in record["annotations"])
        assert factor == pytest.approx(max(1.0, (0.9 / rarest) ** 0.5))
    batch = next(iter(loader))
    model = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes").model
    model.roi_heads.num_classes = cfg.model.roi_heads.num_classes
    with EventStorage():
        losses = instantiate(model).train()(batch)
    assert all(loss.isfinite() for loss in losses.values())
