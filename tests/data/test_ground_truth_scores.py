"""Ground truth fed to Detectron2's evaluators as predictions must score 100.

This proves the ids, maps and masks of metadata, annotation files, loader and mapper together.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import Instances

from vitadapter_d2.data import PanopticMapper

NAME = "tiny_val_panoptic"


def oracle_output(target: dict, class_shift: int) -> dict:
    """Turn a training target into a prediction; a shift gives every segment a wrong class."""
    thing_ids = set(MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id.values())
    truth = target["instances"]
    classes = (truth.gt_classes + class_shift) % 12
    is_thing = torch.tensor([int(c) in thing_ids for c in classes])
    objects = Instances(truth.image_size)
    objects.pred_masks = truth.gt_masks.tensor[is_thing]
    objects.pred_boxes = truth.gt_boxes[is_thing]
    objects.pred_classes = classes[is_thing]
    objects.scores = torch.ones(len(objects.pred_classes))
    segments = torch.zeros(truth.image_size, dtype=torch.int32)
    info = []
    for i, mask in enumerate(truth.gt_masks.tensor):
        segments[mask] = i + 1
        segment = {"id": i + 1, "category_id": int(classes[i]), "isthing": bool(is_thing[i])}
        info.append(segment)
    scores = F.one_hot((target["sem_seg"] + class_shift) % 12, 12).permute(2, 0, 1)
    return {"instances": objects, "panoptic_seg": (segments, info), "sem_seg": scores}


def evaluate(output_dir: str, class_shift: int) -> dict:
    loader = build_detection_test_loader(
        get_detection_dataset_dicts(NAME, filter_empty=False),
        mapper=DatasetMapper(is_train=False, augmentations=[], image_format="RGB"),
    )
    records = {r["image_id"]: r for r in DatasetCatalog.get(NAME)}
    mapper = PanopticMapper(augmentations=[], num_classes=12)
    evaluators = [
        COCOPanopticEvaluator(NAME, output_dir),
        COCOEvaluator(NAME, tasks=("bbox", "segm"), distributed=False, output_dir=output_dir),
        SemSegEvaluator(NAME, distributed=False, output_dir=output_dir),
    ]
    for evaluator in evaluators:
        evaluator.reset()
    for inputs in loader:
        outputs = [oracle_output(mapper(records[i["image_id"]]), class_shift) for i in inputs]
        for evaluator in evaluators:
            evaluator.process(inputs, outputs)
    results: dict = {}
    for evaluator in evaluators:
        results.update(evaluator.evaluate())
    return results


def test_ground_truth_scores_100_everywhere(tiny_root, tmp_path):
    results = evaluate(str(tmp_path), class_shift=0)
    panoptic = results["panoptic_seg"]
    assert [panoptic[k] for k in ("PQ", "PQ_th", "PQ_st", "SQ", "RQ")] == [100.0] * 5
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        per_class = [v for k, v in results[task].items() if k.startswith("AP-")]
        assert per_class == pytest.approx([100] * 8)
    assert results["sem_seg"]["mIoU"] == 100.0


def test_wrong_classes_score_nothing(tiny_root, tmp_path):
    results = evaluate(str(tmp_path), class_shift=1)
    assert results["panoptic_seg"]["PQ"] == 0
    assert results["sem_seg"]["mIoU"] == 0
    for task in ("bbox", "segm"):
        assert results[task]["AP"] < 5
