"""Stages, sampling, losses and averages against formulations without Detectron2's classes."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torchvision.ops import generalized_box_iou_loss, roi_align

from vitadapter_d2.modeling.cascade import CascadeMaskROIHeads

CLASSES = 3
CHANNELS = 4
IOUS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (1 / 0.033,) * 2 + (1 / 0.067,) * 2)
LOSS_WEIGHTS = (1.0, 0.5, 0.25)
SIZE = (64, 80)


def pooler(size):
    return ROIPooler(size, scales=(1 / 4,), sampling_ratio=0, pooler_type="ROIAlignV2")


def box_predictor(stage, class_agnostic):
    weight = LOSS_WEIGHTS[stage]
    return FastRCNNOutputLayers(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform(WEIGHTS[stage]),
        num_classes=CLASSES,
        cls_agnostic_bbox_reg=class_agnostic,
        box_reg_loss_type="giou",
        loss_weight={"loss_cls": weight, "loss_box_reg": 10 * weight},
        test_score_thresh=0.0,
        test_nms_thresh=1.0,  # keeps everything
        test_topk_per_image=-1,
    )


def mask_head(stage):
    return MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=CHANNELS, height=14, width=14),
        num_classes=CLASSES,
        conv_dims=[4, 4],
        loss_weight=LOSS_WEIGHTS[stage],
    )


def parts(class_agnostic=False, with_masks=True):
    stages = range(3)
    shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
    masks = dict(
        mask_heads=[mask_head(stage) for stage in stages],
        mask_in_features=["p2"],
        mask_pooler=pooler(14),
    )
    return dict(
        num_classes=CLASSES,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matchers=[Matcher([iou], [0, 1]) for iou in IOUS],
        box_in_features=["p2"],
        box_pooler=pooler(7),
        box_heads=[
            FastRCNNConvFCHead(shape, conv_dims=[4], fc_dims=[8], conv_norm="BN") for _ in stages
        ],
        box_predictors=[box_predictor(stage, class_agnostic) for stage in stages],
        **(masks if with_masks else {}),
    )


def roi_heads(**options):
    heads = CascadeMaskROIHeads(**parts(**options))
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.3)
    for predictor in heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=1.0)
    return heads


def random_boxes(count):
    corners = torch.rand(count, 2) * torch.tensor([50.0, 40.0])
    return torch.cat([corners, corners + 4 + torch.rand(count, 2) * 24], dim=1)


def proposals_of(*counts):
    return [Instances(SIZE, proposal_boxes=Boxes(random_boxes(count))) for count in counts]


def target_of(boxes):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top : (top + bottom) // 2, left:right] = True
    return Instances(
        SIZE,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.arange(len(boxes)) % CLASSES,
        gt_masks=BitMasks(masks),
    )


def empty_target():
    """What Detectron2's mapper makes of an image without objects."""
    return Instances(SIZE, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())


def features_of(images):
    return {"p2": torch.randn(images, CHANNELS, 16, 20)}


def train_step(heads, features, proposals, targets):
    with EventStorage():
        return heads.train()(None, features, proposals, targets)[1]


def decoded(box, deltas, weights):
    """One box moved and scaled, clipped to the image."""
    left, top, right, bottom = box.tolist()
    dx, dy, dw, dh = (
        delta / weight for delta, weight in zip(deltas.tolist(), weights, strict=True)
    )
    width, height = right - left, bottom - top
    x, y = left + width / 2 + dx * width, top + height / 2 + dy * height
    width, height = width * torch.tensor(dw).exp(), height * torch.tensor(dh).exp()
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    limits = torch.tensor([SIZE[1], SIZE[0]] * 2)
    return torch.minimum(corners.clamp(min=0), limits)


def pooled(features, proposals, size):
    boxes = [found.proposal_boxes.tensor for found in proposals]
    return roi_align(features["p2"], boxes, size, 1 / 4, sampling_ratio=-1, aligned=True)


def stage_outputs(heads, features, proposals, stage):
    box_features = heads.box_head[stage](pooled(features, proposals, 7))
    predictor = heads.box_predictor[stage]
    return predictor.cls_score(box_features), predictor.bbox_pred(box_features)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_moves_each_box_as_its_best_foreground_class_says(stage, class_agnostic):
    heads = roi_heads(class_agnostic=class_agnostic).eval()
    proposals = proposals_of(5, 0, 4)
    logits = torch.randn(9, CLASSES + 1)
    logits[:, CLASSES] += 2  # background wins often, and must not count
    deltas = 3 * torch.randn(9, 4 if class_agnostic else 4 * CLASSES)
    refined = heads.refine((logits, deltas), proposals, stage)
    boxes = torch.cat([found.proposal_boxes.tensor for found in proposals])
    best = [0] * 9 if class_agnostic else logits[:, :CLASSES].argmax(1).tolist()
    expected = [
        decoded(box, row[4 * label : 4 * label + 4], WEIGHTS[stage])
        for box, row, label in zip(boxes, deltas, best, strict=True)
    ]
    assert [len(found) for found in refined] == [5, 0, 4]
    result = torch.cat([found.proposal_boxes.tensor for found in refined])
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-4, rtol=1e-5)


def test_in_training_objects_keep_their_class_and_the_ground_truth_does_not_go_on():
    heads = roi_heads().train()
    boxes = random_boxes(4)
    sampled = Instances(
        SIZE,
        proposal_boxes=Boxes(boxes),
        gt_classes=torch.tensor([2, CLASSES, 1, 0]),
        is_target=torch.tensor([False, False, True, False]),
    )
    logits = torch.tensor([[0.0, 5.0, 1.0, 9.0]]).repeat(4, 1)
    deltas = torch.randn(4, 4 * CLASSES)
    (refined,) = heads.refine((logits, deltas), [sampled], 1)
    expected = [
        decoded(boxes[index], deltas[index, 4 * label : 4 * label + 4], WEIGHTS[1])
        for index, label in ((0, 2), (1, 1), (3, 0))
    ]
    result = refined.proposal_boxes.tensor
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-4, rtol=1e-5)
    assert not result.requires_grad


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_each_stage_samples_with_its_own_threshold_and_adds_the_ground_truth(stage):
    heads = roi_heads().train()
    target = target_of(torch.tensor([[0.0, 0.0, 40.0, 40.0]]))
    overlaps = torch.tensor([0.2, 0.55, 0.65, 0.75])
    boxes = torch.tensor([0.0, 0.0, 40.0, 40.0]).repeat(4, 1)
    boxes[:, 2] *= overlaps
    with EventStorage():
        (sampled,) = heads.sample([Instances(SIZE, proposal_boxes=Boxes(boxes))], [target], stage)
    sides = sampled.proposal_boxes.tensor[:, 2]
    expected = [0 if overlap > IOUS[stage] else CLASSES for overlap in overlaps]
    assert [sampled.gt_classes[sides == side].item() for side in boxes[:, 2]] == expected
    assert sampled.is_target.sum() == 1
    assert sampled.proposal_boxes.tensor[sampled.is_target].tolist() == [[0, 0, 40, 40]]


def test_a_sample_has_no_more_boxes_and_objects_than_asked_for():
    heads = roi_heads().train()
    with EventStorage():
        (sampled,) = heads.sample(proposals_of(100), [target_of(random_boxes(10))], 0)
    assert len(sampled) == 16
    assert (sampled.gt_classes < CLASSES).sum() <= 4


def expected_losses(heads, features, proposals, targets):
    """All losses of a step; ``sample`` and ``refine`` have their own tests."""
    losses = {}
    for stage, weight in enumerate(LOSS_WEIGHTS):
        sampled = heads.sample(proposals, targets, stage)
        logits, deltas = stage_outputs(heads, features, sampled, stage)
        classes = torch.cat([found.gt_classes for found in sampled])
        losses[f"loss_cls_stage{stage}"] = weight * F.cross_entropy(logits, classes)
        objects = (classes < CLASSES).nonzero()[:, 0]
        moved = []
        boxes = torch.cat([found.proposal_boxes.tensor for found in sampled])
        for index in objects.tolist():
            label = classes[index]
            transform = heads.box_predictor[stage].box2box_transform
            chosen = deltas[index, 4 * label : 4 * label + 4]
            moved.append(transform.apply_deltas(chosen[None], boxes[index][None])[0])
        truth = torch.cat([found.gt_boxes.tensor for found in sampled if found.has("gt_boxes")])
        in_first = classes[: len(truth)]
        giou = generalized_box_iou_loss(torch.stack(moved), truth[in_first < CLASSES])
        losses[f"loss_box_reg_stage{stage}"] = 10 * weight * giou.sum() / len(classes)
        losses[f"loss_mask_stage{stage}"] = weight * mask_loss(heads, features, sampled, stage)
        proposals = heads.refine((logits, deltas), sampled, stage)
    return losses


def mask_loss(heads, features, sampled, stage):
    objects = [found[found.gt_classes < CLASSES] for found in sampled if found.has("gt_masks")]
    logits = heads.mask_head[stage].layers(pooled(features, objects, 14))
    classes = torch.cat([found.gt_classes for found in objects])
    truth = []
    for found in objects:
        for mask, box in zip(found.gt_masks, found.proposal_boxes, strict=True):
            cut = roi_align(mask[None, None].float(), [box[None]], 28, 1.0, aligned=True)
            truth.append(cut[0, 0] >= 0.5)
    logits = logits[torch.arange(len(classes)), classes]
    return F.binary_cross_entropy_with_logits(logits, torch.stack(truth).float())


def test_losses_and_gradients_equal_the_plain_formulation():
    heads = roi_heads().train()
    features = features_of(2)
    features["p2"].requires_grad_()
    proposals = proposals_of(12, 10)
    targets = [target_of(random_boxes(5)), empty_target()]
    torch.manual_seed(1)
    losses = train_step(heads, features, proposals, targets)
    torch.manual_seed(1)
    with EventStorage():
        expected = expected_losses(heads, features, proposals, targets)
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    # The features get the sum of the stages' gradients, not their mean.
    gradients = [
        torch.autograd.grad(sum(values.values()), features["p2"])[0]
        for values in (losses, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_detections_are_scored_by_the_mean_logits_of_all_stages():
    heads = roi_heads(with_masks=False).eval()
    features = features_of(1)
    (proposals,) = proposals_of(6)
    with torch.no_grad():
        ((detections,), _) = heads(None, features, [proposals])
        logits = []
        current = [proposals]
        for stage in range(3):
            outputs = stage_outputs(heads, features, current, stage)
            logits.append(outputs[0])
            before, current = current, heads.refine(outputs, current, stage)
    scores = (sum(logits) / 3).softmax(1)[:, :CLASSES]
    other = sum(stage.softmax(1) for stage in logits)[:, :CLASSES] / 3
    expected = scores.flatten().sort(descending=True)
    torch.testing.assert_close(detections.scores, expected.values)
    assert not torch.allclose(other.flatten().sort(descending=True).values, expected.values)
    for index, box in zip(expected.indices.tolist(), detections.pred_boxes, strict=True):
        row, label = divmod(index, CLASSES)
        deltas = outputs[1][row, 4 * label : 4 * label + 4]
        start = before[0].proposal_boxes.tensor[row]
        torch.testing.assert_close(box, decoded(start, deltas, WEIGHTS[2]), atol=1e-4, rtol=1e-5)


def test_masks_are_the_mean_probabilities_of_all_heads():
    heads = roi_heads().eval()
    features = features_of(2)
    with torch.no_grad():
        detections, _ = heads(None, features, proposals_of(4, 3))
        boxes = [Instances(SIZE, proposal_boxes=found.pred_boxes) for found in detections]
        maps = pooled(features, boxes, 14)
        expected = sum(head.layers(maps).sigmoid() for head in heads.mask_head) / 3
    classes = torch.cat([found.pred_classes for found in detections])
    masks = torch.cat([found.pred_masks for found in detections])
    assert masks.shape == (len(classes), 1, 28, 28)
    torch.testing.assert_close(masks[:, 0], expected[torch.arange(len(classes)), classes])


def test_every_parameter_gets_a_gradient():
    heads = roi_heads()
    targets = [target_of(random_boxes(4)) for _ in range(2)]
    losses = train_step(heads, features_of(2), proposals_of(20, 20), targets)
    sum(losses.values()).backward()
    assert not [name for name, p in heads.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("counts", [(8, 8), (0, 0), (0, 5)])
@pytest.mark.parametrize("objects", [(2, 0), (0, 0)])
def test_training_survives_images_without_objects_or_proposals(counts, objects):
    heads = roi_heads()
    targets = [target_of(random_boxes(n)) if n else empty_target() for n in objects]
    losses = train_step(heads, features_of(2), proposals_of(*counts), targets)
    assert len(losses) == 9
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name  # or distributed training waits for it
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in heads.buffers())


def test_no_proposals_give_no_detections():
    heads = roi_heads().eval()
    with torch.no_grad():
        detections, _ = heads(None, features_of(2), proposals_of(0, 0))
    for found in detections:
        assert len(found) == 0
        assert found.pred_masks.shape == (0, 1, 28, 28)


def test_without_mask_heads_there_are_boxes_alone():
    heads = roi_heads(with_masks=False)
    losses = train_step(heads, features_of(1), proposals_of(9), [target_of(random_boxes(2))])
    assert not [name for name in losses if "mask" in name]
    with torch.no_grad():
        ((found,), _) = heads.eval()(None, features_of(1), proposals_of(3))
    assert not found.has("pred_masks")


def test_losses_in_bfloat16_are_those_of_float32():
    heads = roi_heads()
    features = features_of(2)
    proposals = proposals_of(10, 10)
    targets = [target_of(random_boxes(4)) for _ in range(2)]
    totals = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = train_step(heads, features, proposals, targets)
        totals.append(torch.stack([loss.float() for loss in losses.values()]).sum())
    torch.testing.assert_close(totals[1], totals[0], atol=0, rtol=0.02)


def test_names_have_the_number_of_the_stage():
    names = roi_heads().state_dict().keys()
    for stage in range(3):
        for name in (
            f"box_head.{stage}.conv1.weight",
            f"box_predictor.{stage}.bbox_pred.weight",
            f"mask_head.{stage}.deconv.weight",
        ):
            assert name in names


@pytest.mark.parametrize(
    "change",
    [
        {"mask_heads": [mask_head(0)]},
        {"mask_heads": []},
        {"proposal_matchers": [Matcher([0.5], [0, 1])]},
    ],
)
def test_unequal_stages_are_refused(change):
    with pytest.raises(ValueError, match="stages must have the same number of parts"):
        CascadeMaskROIHeads(**parts() | change)


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="needs targets"):
        roi_heads().train()(None, features_of(1), proposals_of(2))
