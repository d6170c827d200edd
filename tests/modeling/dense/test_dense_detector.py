import math

import numpy as np
import pytest
import torch
from dense_models import detector, fpn, item
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from PIL import Image

from vitadapter_d2.modeling.dense import ATSSHead, GFLHead, LinearP6P7

KINDS = ("atss", "gfl")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def loud(kind, **options):
    """A detector that is sure of many things."""
    model = detector(kind, **options).eval()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.3)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.2)
    return model


def image(height, width):
    return {"image": torch.randn(3, height, width)}


def slow_boxes(kind, values, x, y, stride):
    if kind == "atss":
        side = 8 * stride
        cx, cy = x + values[0] * side / 10, y + values[1] * side / 10
        w, h = (side * math.exp(value / 5) for value in values[2:])
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    sides = torch.tensor(values, dtype=torch.float64).view(4, 17).softmax(1)
    left, top, right, bottom = ((sides * torch.arange(17)).sum(1) * stride).tolist()
    return x - left, y - top, x + right, y + bottom


def slow_detections(kind, model, image, topk):
    """Cell by cell; suppression box by box."""
    height, width = image.shape[1:]
    padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    padded[0, :, :height, :width] = image
    with torch.no_grad():
        predictions = model.head(list(model.backbone(padded).values()))
    found = []
    for level, logits in enumerate(predictions[0]):
        stride = 8 * 2**level
        scores = logits[0].sigmoid()
        best = sorted(
            ((scores[k, y, x].item(), k, y, x) for k, y, x in (scores > 0.05).nonzero().tolist()),
            reverse=True,
        )[:topk]
        for score, k, y, x in best:
            values = predictions[1][level][0, :, y, x].tolist()
            x0, y0, x1, y1 = slow_boxes(kind, values, x * stride, y * stride, stride)
            box = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
            if kind == "atss":
                score *= predictions[2][level][0, 0, y, x].sigmoid().item()
            if box[0] < box[2] and box[1] < box[3]:
                found.append((score, k, box))
    kept = []
    for score, k, box in sorted(found, reverse=True):
        others = [other for _, label, other in kept if label == k]
        overlaps = pairwise_iou(Boxes([box]), Boxes(others)) if others else torch.zeros(1)
        if overlaps.max() <= 0.6:
            kept.append((score, k, box))
    return kept[:100]


@pytest.mark.parametrize(("size", "topk"), [((70, 90), 1000), ((70, 90), 20), ((64, 45), 50)])
def test_detections_are_those_of_a_loop_over_cells(kind, size, topk):
    model, entry = loud(kind, test_topk_candidates=topk), image(*size)
    (output,) = model([entry])
    found = output["instances"]
    expected = slow_detections(kind, model, entry["image"], topk)
    assert len(expected) > 15
    assert found.pred_classes.tolist() == [k for _, k, _ in expected]
    scores = torch.tensor([score for score, _, _ in expected])
    boxes = torch.tensor([box for _, _, box in expected])
    torch.testing.assert_close(found.scores, scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=1e-4, atol=1e-3)


def test_detections_come_at_the_size_of_the_original_image(kind):
    model, entry = loud(kind), image(64, 96)
    small = model([entry])[0]["instances"]
    large = model([{**entry, "height": 128, "width": 480}])[0]["instances"]
    assert large.image_size == (128, 480)
    scale = torch.tensor([5.0, 2.0, 5.0, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * scale)


def test_an_unsure_model_finds_nothing(kind):
    found = detector(kind).eval()([image(40, 50)])[0]["instances"]
    assert len(found) == 0 and found.has("pred_classes")


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (97, 5)])
def test_any_size_trains_and_predicts(kind, size):
    model = loud(kind)
    batch = [item(*size, [[0, 0, size[1], size[0]]], [1]), item(40, 64, [[3, 4, 50, 30]], [0])]
    for output, entry in zip(model(batch), batch, strict=True):
        height, width = entry["image"].shape[1:]
        boxes = output["instances"].pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert all(loss.isfinite() for loss in model.train()(batch).values())


def total(losses):
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("boxes", [[[3, 4, 50, 30]], []])
def test_every_parameter_learns(kind, boxes):
    model = detector(kind).train()
    total(model([item(40, 64, boxes, [0] * len(boxes))])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    learning = model.head.bbox_pred.weight.grad.abs().sum() > 0
    assert learning == bool(boxes)


def test_a_batch_without_objects_costs_scores_alone(kind):
    losses = detector(kind).train()([item(40, 64, [], []), item(50, 30, [], [])])
    positive = [name for name, loss in losses.items() if loss > 0]
    assert positive == ["loss_cls"]


def test_boxes_without_area_change_no_loss(kind):
    model = loud(kind).train()
    entry = item(64, 96, [[5, 8, 60, 50]], [3])
    flat = item(64, 96, [[5, 8, 60, 50], [20, 20, 20, 40], [9, 9, 9, 9]], [3, 1, 0])
    assert model([{**flat, "image": entry["image"]}]) == model([entry])


def test_crowd_boxes_are_dropped_before_training(kind, tmp_path):
    Image.fromarray(np.full((64, 96, 3), 99, np.uint8)).save(tmp_path / "image.png")
    box = {"bbox": [5, 8, 60, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 3}
    crowd = {**box, "bbox": [0, 0, 90, 60], "category_id": 1, "iscrowd": 1}
    record = {"file_name": str(tmp_path / "image.png"), "height": 64, "width": 96}
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    model = loud(kind).train()
    expected = model([mapper({**record, "annotations": [box]})])
    assert model([mapper({**record, "annotations": [box, crowd]})]) == expected
    counted = model([mapper({**record, "annotations": [box, {**crowd, "iscrowd": 0}]})])
    assert counted != expected


def test_classes_beyond_the_head_are_refused(kind):
    model = detector(kind, num_classes=6).train()
    boxes = [[5, 8, 60, 50]] * 3
    with pytest.raises(ValueError, match=r"gt_classes must be in \[0, 6\), got \[-1, 6\]"):
        model([item(64, 96, boxes, [-1, 5, 6])])


def test_losses_in_bfloat16_are_those_in_float32(kind):
    model = loud(kind).train()
    batch = [item(90, 70, [[5, 8, 60, 80]], [0]), item(64, 128, [[60, 4, 126, 47]], [2])]
    expected = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.02), name


def test_what_was_learnt_is_found(kind):
    model = detector(kind).train()
    entry = item(64, 64, [[5, 8, 60, 50]], [3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        total(model([entry])).backward()
        optimizer.step()
    best = model.eval()([entry])[0]["instances"][0]
    assert best.pred_classes.item() == 3
    assert pairwise_iou(best.pred_boxes, entry["instances"].gt_boxes).item() > 0.8


def test_top_block_has_no_relu():
    block = LinearP6P7(channels=4)
    feature = torch.randn(1, 4, 7, 9)
    p6, p7 = block(feature)
    assert p6.shape[-2:] == (4, 5) and p7.shape[-2:] == (2, 3)
    assert (p6 < 0).any()
    torch.testing.assert_close(block(-feature)[1] + p7, 2 * block(feature * 0)[1])
    assert sorted(block.state_dict()) == ["p6.bias", "p6.weight", "p7.bias", "p7.weight"]
    assert list(fpn().output_shape()) == ["p3", "p4", "p5", "p6", "p7"]


def test_head_starts_with_the_prior():
    scores = torch.cat(
        [level.flatten() for level in ATSSHead(32, 6)([torch.randn(1, 32, 4, 4)] * 5)[0]]
    ).sigmoid()
    torch.testing.assert_close(scores.mean(), torch.tensor(0.01), rtol=0.5, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_convs": 0}, "num_convs must be at least 1, got 0"),
        ({"prior_probability": 1.0}, r"prior_probability must be in \(0, 1\), got 1.0"),
        ({"reg_max": 0}, "reg_max must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GFLHead(32, 6, **options)


def test_levels_and_scales_must_agree():
    with pytest.raises(ValueError, match="the head's 5 levels, got .'p3', 'p4'"):
        detector("atss", head_in_features=("p3", "p4"))
