"""Box and mask AP against Detectron2's own evaluator; files for the COCO server."""

import builtins
import json
import logging
import zipfile

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detections import HEIGHT, WIDTH, annotations, detections
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.evaluate import do_test
from vitadapter_d2.evaluation import DetectionEvaluator


@pytest.fixture
def register(tmp_path):
    """Registers an annotation file of that content; returns the name of the data set."""
    names = []

    def register(content, file="instances_own.json", name="own_detections"):
        path = tmp_path / file
        path.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(path), str(tmp_path))
        names.append(name)
        DatasetCatalog.get(name)  # fills in the classes
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluate(evaluator, content, results):
    """What an evaluator says of results, which it gets image by image as a model gives them."""
    evaluator.reset()
    for image in content["images"]:
        own = [result for result in results if result["image_id"] == image["id"]]
        found = Instances((HEIGHT, WIDTH))
        boxes = torch.tensor([result["bbox"] for result in own]).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1))
        found.scores = torch.tensor([result["score"] for result in own])
        found.pred_classes = torch.tensor([result["category_id"] // 10 - 1 for result in own])
        found.pred_masks = decoded([result["segmentation"] for result in own])
        evaluator.process([{"image_id": image["id"]}], [{"instances": found}])
    return evaluator.evaluate()


def decoded(masks):
    maps = [mask_util.decode(mask) for mask in masks]
    return torch.from_numpy(np.stack(maps)).bool() if maps else torch.zeros(0, HEIGHT, WIDTH)


@pytest.fixture
def case():
    generator = np.random.default_rng(5)
    content = annotations(generator, images=12, classes=4, most_objects=8)
    return content, detections(generator, content, count=30)


@pytest.mark.parametrize("use_faster", [False, True])
@pytest.mark.parametrize("limit", [None, 10])
def test_numbers_are_those_of_detectron2(register, tmp_path, case, use_faster, limit):
    name = register(case[0])
    theirs = COCOEvaluator(name, use_fast_impl=False, max_dets_per_image=limit)
    ours = DetectionEvaluator(name, max_dets_per_image=limit, use_faster=use_faster)
    expected, results = evaluate(theirs, *case), evaluate(ours, *case)
    assert results.keys() == expected.keys() == {"bbox", "segm"}
    for task, values in expected.items():
        assert list(results[task]) == list(values) and "AP-class 4" in values
        assert 5 < values["AP"] < 95
        relative = 1e-12 if use_faster else 0
        assert np.isfinite(list(values.values())).all()
        assert results[task] == pytest.approx(values, rel=relative, abs=0)


def test_more_than_100_detections_of_an_image_are_cut_alike(register):
    generator = np.random.default_rng(6)
    content = annotations(generator, images=3, classes=1, most_objects=30)
    results = detections(generator, content, count=130)
    name = register(content)
    slow = evaluate(DetectionEvaluator(name), content, results)
    fast = evaluate(DetectionEvaluator(name, use_faster=True), content, results)
    for task, values in slow.items():
        assert fast[task] == pytest.approx(values, rel=1e-12, abs=0, nan_ok=True)
    best = sorted(results, key=lambda result: -result["score"])
    counted = [[r for r in best if r["image_id"] == image][:100] for image in range(3)]
    cut = evaluate(DetectionEvaluator(name), content, sum(counted, []))
    assert cut["bbox"]["AP"] == slow["bbox"]["AP"]


def test_faster_counting_without_the_package_is_slower(register, case, monkeypatch, caplog):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    name = register(case[0])
    monkeypatch.setattr(builtins, "__import__", without)
    evaluator = DetectionEvaluator(name, use_faster=True)
    assert "pip install faster-coco-eval" in caplog.text
    monkeypatch.undo()
    assert evaluate(evaluator, *case) == evaluate(DetectionEvaluator(name), *case)


def test_classes_are_listed_best_first(register, case, caplog):
    name = register(case[0])
    with caplog.at_level(logging.INFO, "vitadapter_d2"):
        results = evaluate(DetectionEvaluator(name), *case)
    for task in ("bbox", "segm"):
        (table,) = [r.message for r in caplog.records if r.message.startswith(f"{task} of each")]
        rows = [line.strip("|").split("|") for line in table.splitlines()[3:]]
        listed = [(cells[0].strip(), float(cells[1])) for cells in rows]
        by_ap = sorted(
            ((key[3:], value) for key, value in results[task].items() if key.startswith("AP-")),
            key=lambda pair: -pair[1],
        )
        assert [label for label, _ in listed] == [label for label, _ in by_ap]
        assert [ap for _, ap in listed] == pytest.approx([ap for _, ap in by_ap], abs=0.051)
        objects = sum(int(cells[3]) for cells in rows)
        assert objects == sum(not part["iscrowd"] for part in case[0]["annotations"])


@pytest.mark.parametrize("use_faster", [False, True])
def test_no_detections_at_all_are_worth_nothing(register, case, use_faster):
    content = {**case[0], "categories": [*case[0]["categories"], {"id": 50, "name": "absent"}]}
    evaluator = DetectionEvaluator(register(content), use_faster=use_faster)
    nothing = evaluate(evaluator, content, [])
    something = evaluate(evaluator, content, case[1])
    for task in ("bbox", "segm"):
        assert list(nothing[task]) == list(something[task])
        assert np.isnan(nothing[task].pop("AP-absent")) and np.isnan(something[task]["AP-absent"])
        assert set(nothing[task].values()) == {0.0}


def test_a_model_without_masks_has_no_mask_ap(register, case):
    evaluator = DetectionEvaluator(register(case[0]))
    for results in (case[1], []):
        evaluator.reset()
        found = Instances((HEIGHT, WIDTH))
        boxes = torch.tensor([result["bbox"] for result in results]).reshape(-1, 4)
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.ones(len(results))
        found.pred_classes = torch.zeros(len(results), dtype=torch.int64)
        evaluator.process([{"image_id": 1}], [{"instances": found}])
        assert set(evaluator.evaluate()) == {"bbox"}


def test_the_index_is_not_asked_for_each_class(register, case, monkeypatch):
    evaluator = DetectionEvaluator(register(case[0]))
    api, asked = evaluator._coco_api, []
    real = api.getAnnIds
    monkeypatch.setattr(
        api, "getAnnIds", lambda **filters: asked.append(filters) or real(**filters)
    )
    evaluate(evaluator, *case)
    assert len(asked) == 2  # by COCO's own evaluation, for boxes and for masks


def test_classes_that_the_data_set_lacks_are_named(register, case):
    evaluator = DetectionEvaluator(register(case[0]))
    results = [{**case[1][0], "category_id": 50}]
    with pytest.raises(ValueError, match="class 4, own_detections has 4: 0 to 3"):
        evaluate(evaluator, case[0], results)


@pytest.fixture
def test_dev(register, case):
    content = {key: value for key, value in case[0].items() if key != "annotations"}
    return register(content, "image_info_test-dev2017.json", "own_test-dev")


def test_without_annotations_the_server_gets_what_it_wants(test_dev, tmp_path, case, caplog):
    evaluator = DetectionEvaluator(test_dev, str(tmp_path / "out"), server_name="ours")
    with caplog.at_level(logging.INFO, "vitadapter_d2"):
        assert evaluate(evaluator, *case) == {}
    name = "detections_test-dev2017_ours_results"
    for task, key in (("bbox", "bbox"), ("segm", "segmentation")):
        file = tmp_path / "out" / task / f"{name}.json"
        results = json.loads(file.read_text())
        assert len(results) == len(case[1])
        assert all(set(r) == {"image_id", "category_id", "score", key} for r in results)
        assert {r["category_id"] for r in results} == {10, 20, 30, 40}
        with zipfile.ZipFile(file.with_suffix(".zip")) as archive:
            assert archive.namelist() == [f"{name}.json"]
            assert archive.read(f"{name}.json") == file.read_bytes()
        assert str(file.with_suffix(".zip")) in caplog.text


def test_without_annotations_somewhere_to_write_is_needed(test_dev):
    with pytest.raises(ValueError, match="own_test-dev has no annotations: output_dir must say"):
        DetectionEvaluator(test_dev)


def test_a_model_is_run_on_a_set_without_annotations(register, tiny_root, tmp_path):
    """What ``--eval-only dataloader.test.dataset.names=coco_2017_test-dev`` does."""
    metadata = MetadataCatalog.get("tiny_val")
    with open(metadata.json_file) as file:
        content = json.load(file)
    del content["annotations"]
    for image in content["images"]:
        image["file_name"] = f"{metadata.image_root}/{image['file_name']}"
    name = register(content, "image_info_test-dev2017.json", "tiny_test-dev")
    cfg = model_zoo.get_config("coco/mask_rcnn_deit_adapter_small_fpn_1x_coco")
    cfg.model = model_zoo.get_config("shapes/mask_rcnn_vit_adapter_shapes").model
    cfg.dataloader.test.dataset.names = name
    cfg.dataloader.test.mapper.augmentations = []
    cfg.dataloader.test.num_workers = 0
    cfg.train.output_dir = str(tmp_path)
    cfg.model.roi_heads.box_predictor.test_topk_per_image = 3
    assert do_test(cfg, instantiate(cfg.model).eval()) == {}
    folder = tmp_path / "inference" / "bbox"
    (file,) = folder.glob("*.json")
    results = json.loads(file.read_text())
    assert file.name == "detections_test-dev2017_vitadapter_results.json"
    assert {result["image_id"] for result in results} <= {i["id"] for i in content["images"]}
    assert len(results) == 3 * len(content["images"])
