import pytest
import torch
from detectron2.modeling.roi_heads import fast_rcnn
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from htc_models import LABELS, K, make_input, make_model, make_roi_heads

from vitadapter_d2.layers.soft_nms import soft_nms
from vitadapter_d2.layers.suppression import SoftNMS
from vitadapter_d2.modeling.box_predictor import candidates, suppress
from vitadapter_d2.modeling.cascade import CascadeMaskROIHeads

OBJECTS = ((4, 6, 30, 40), (34, 20, 60, 56))


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as storage:
        yield storage


def levels(batch=1, size=64):
    shapes = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    return {name: torch.randn(batch, 16, size // s, size // s) for name, s in shapes.items()}


def proposals_of(boxes, size=(64, 64)):
    return Instances(size, proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32)))


def test_training_gives_losses_of_all_stages_and_a_gradient_for_every_parameter():
    model = make_model()
    losses = model([make_input(64, 90, OBJECTS), make_input(40, 64)])
    stages = {f"loss_{kind}_stage{s}" for kind in ("cls", "box_reg", "mask") for s in range(3)}
    assert set(losses) == stages | {"loss_semantic", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if "bottom_up" not in name:  # of which Detectron2's stem is frozen
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_losses_fall():
    model, batch = make_model(), [make_input(64, 64, OBJECTS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(18):
        losses = model(batch)
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in ("loss_semantic", "loss_cls_stage0", "loss_mask_stage0", "loss_mask_stage2"):
        assert history[-1][name] < 0.8 * history[0][name], name
    assert sum(history[-1].values()) < 0.7 * sum(history[0].values())


def test_images_without_objects_train_all_but_boxes_and_masks():
    model = make_model()
    losses = model([make_input(64, 64), make_input(32, 50)])
    assert losses["loss_semantic"] > 0 and losses["loss_cls_stage2"] > 0
    for stage in range(3):
        assert losses[f"loss_box_reg_stage{stage}"] == losses[f"loss_mask_stage{stage}"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())


def test_losses_in_bf16_agree_with_float32():
    model, batch = make_model(), [make_input(64, 96, OBJECTS), make_input(64, 64, OBJECTS[:1])]
    totals = []
    for enabled in (False, True):
        torch.manual_seed(1)  # of the samples
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = model(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        totals.append(sum(losses.values()).item())
    assert totals[1] == pytest.approx(totals[0], rel=0.02)


def test_predictions_are_float32_under_autocast():
    heads = make_roi_heads()
    features = heads.with_context(levels())
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = heads.run_stage(features, [proposals_of([[5, 5, 31, 41]])], 0)
    assert logits.dtype == deltas.dtype == torch.float32


def test_masks_train_on_the_boxes_that_their_own_stage_refined(monkeypatch):
    heads, targets = make_roi_heads(), make_input(64, 64, OBJECTS)["instances"]
    refined, seen, started = [], [], []
    refine, mask_losses, run_stage = heads.refine, heads.mask_losses, heads.run_stage

    def record_refine(predictions, proposals, stage):
        refined.append(refine(predictions, proposals, stage)[0].proposal_boxes.tensor)
        return [proposals_of(refined[-1].tolist())]

    def record_masks(features, sampled, stage):
        seen.append(sampled[0].proposal_boxes.tensor)
        return mask_losses(features, sampled, stage)

    def record_start(features, proposals, stage):
        started.append(proposals[0].proposal_boxes.tensor)
        return run_stage(features, proposals, stage)

    monkeypatch.setattr(heads, "refine", record_refine)
    monkeypatch.setattr(heads, "mask_losses", record_masks)
    monkeypatch.setattr(heads, "run_stage", record_start)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    noisy = [[5, 5, 31, 41], [33, 22, 61, 57], [0, 0, 20, 20], [30, 30, 63, 40]]
    heads(None, levels(), [proposals_of(noisy)], [targets], labels)
    given = [torch.tensor(noisy, dtype=torch.float32), *refined]
    objects = targets.gt_boxes.tensor
    for stage in range(3):
        assert contains(torch.cat([given[stage], objects]), started[stage])
        assert contains(torch.cat([given[stage + 1], objects]), seen[stage])
        assert not contains(torch.cat([given[stage], objects]), seen[stage])
        assert len(refined[stage]) == len(noisy)  # ground truth joins anew each time


def contains(boxes, some):
    return bool((some[:, None] == boxes).all(dim=2).any(dim=1).all())


def test_a_mask_loss_reaches_the_heads_before_but_not_their_logits():
    heads, targets = make_roi_heads(), make_input(64, 64, OBJECTS)["instances"]
    features = heads.with_context(levels())
    sampled = heads.sample([proposals_of([[5, 5, 31, 41]])], [targets], 2)
    heads.mask_losses(features, sampled, 2)["loss_mask"].backward()
    first, second, third = heads.mask_head
    for head in (first, second, third):
        assert head.mask_fcn1.weight.grad.abs().sum() > 0
    assert second.conv_res.weight.grad.abs().sum() > 0
    assert first.predictor.weight.grad is None and third.predictor.weight.grad is not None


def test_the_context_of_the_semantic_branch_is_added_to_boxes_and_masks(monkeypatch):
    heads, features = make_roi_heads().eval(), levels()
    boxes = [Boxes(torch.tensor([[8.0, 8.0, 40.0, 56.0]]))]
    full = heads.with_context(features)
    none = {name: torch.zeros_like(level) for name, level in full.items()}
    only = none | {"semantic_context": full["semantic_context"]}
    context = heads.semantic_pooler([full["semantic_context"]], boxes)
    torch.testing.assert_close(heads.pool_for_masks(only, boxes), context)
    plain = CascadeMaskROIHeads.pool_for_masks(heads, features, boxes)
    torch.testing.assert_close(heads.pool_for_masks(full, boxes), plain + context)
    pooled = []
    monkeypatch.setattr(
        heads.box_head[0], "forward", lambda x: pooled.append(x) or x.flatten(1)[:, :32]
    )
    heads.run_stage(only, [Instances((64, 64), proposal_boxes=boxes[0])], 0)
    means = context.unflatten(2, (7, 2)).unflatten(4, (7, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(pooled[0], means)


def test_detections_are_in_detectron2s_format_and_independent_of_the_batch():
    model = make_model().eval()
    batch = [make_input(64, 90, OBJECTS, height=128, width=180), make_input(64, 96)]
    with torch.no_grad():
        results = model(batch)
        alone = model(batch[1:])
    for result, size in zip(results, [(128, 180), (64, 96)], strict=True):
        found = result["instances"]
        assert found.image_size == size and 0 < len(found) <= 20
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool
        assert (found.scores.diff() <= 0).all() and (found.scores >= 0.001).all()
        assert ((found.pred_classes >= 0) & (found.pred_classes < K)).all()
        boxes = found.pred_boxes.tensor
        limits = torch.tensor([size[1], size[0]] * 2)
        assert (boxes >= 0).all() and (boxes <= limits).all()
    torch.testing.assert_close(alone[0]["instances"].scores, results[1]["instances"].scores)


def test_an_image_without_detections_has_empty_fields():
    model = make_model().eval()
    model.roi_heads.box_predictor[-1].test_score_thresh = 1.0
    with torch.no_grad():
        found = model([make_input(50, 64)])[0]["instances"]
    assert len(found) == 0 and found.pred_masks.shape == (0, 50, 64)


def test_masks_are_the_mean_of_the_stages_and_can_be_given_boxes():
    heads, features = make_roi_heads().eval(), levels(batch=2)
    for head in heads.mask_head:
        torch.nn.init.normal_(head.predictor.weight)
    boxes = torch.tensor([[3.0, 4.0, 30.0, 50.0], [20.0, 8.0, 60.0, 30.0], [0.0, 0.0, 9.0, 9.0]])
    classes = torch.tensor([2, 0, 1])
    images = [
        Instances((64, 64), pred_boxes=Boxes(boxes[rows]), pred_classes=classes[rows])
        for rows in ([0, 1], [2])
    ]
    with torch.no_grad():
        stages = heads.stage_masks(
            heads.with_context(features), [image.pred_boxes for image in images], classes
        )
        results = heads.forward_with_given_boxes(features, images)
    assert stages.shape == (3, 3, 1, 28, 28)
    assert not torch.allclose(stages[0], stages[2])
    torch.testing.assert_close(
        torch.cat([image.pred_masks for image in results]), stages.mean(dim=0)
    )


def test_scores_are_the_softmax_of_the_mean_logits_after_soft_nms(monkeypatch):
    heads, features = make_roi_heads().eval(), levels()
    logits = torch.randn(3, 4, K + 1) * 3
    deltas = torch.randn(3, 4, 4) * 0.1
    boxes = [[5, 5, 31, 41], [6, 5, 33, 42], [0, 0, 20, 20], [30, 30, 63, 40]]
    monkeypatch.setattr(heads, "run_stage", lambda f, p, stage: (logits[stage], deltas[stage]))
    with torch.no_grad():
        (found,), losses = heads(None, features, [proposals_of(boxes)])
    assert losses == {}
    final = torch.tensor(boxes, dtype=torch.float32)
    for stage, predictor in enumerate(heads.box_predictor):
        final = predictor.box2box_transform.apply_deltas(deltas[stage], final).clamp(0, 64)
    scores = logits.mean(dim=0).softmax(dim=1)[:, :K]
    rows, classes = (scores > 0.001).nonzero(as_tuple=True)
    kept = soft_nms(final[rows], scores[rows, classes], classes, max_boxes=20)
    torch.testing.assert_close(found.scores, kept.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, final[rows[kept.indices]])
    kept_classes = classes[kept.indices]
    assert torch.equal(found.pred_classes, kept_classes)
    assert (kept.scores < scores[rows[kept.indices], kept_classes]).any()


def test_soft_nms_of_boxes_per_class_takes_the_box_of_the_class():
    agnostic = torch.tensor([[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]])
    per_class = torch.cat([agnostic + 5 * k for k in range(K)], dim=1)
    scores = torch.tensor([[0.1, 0.7, 0.0, 0.2], [0.0, 0.0, 0.9, 0.1]])
    pairs, rows = candidates(per_class, scores, (52, 60), score_threshold=0.001)
    found, kept = suppress(pairs, SoftNMS(), max_boxes=20)
    assert found.pred_classes.tolist() == [2, 1, 0]
    assert rows[kept].tolist() == [1, 0, 0]
    assert found.pred_boxes.tensor.tolist() == [
        [50.0, 50.0, 60.0, 52.0],
        [5.0, 5.0, 15.0, 15.0],
        [0.0, 0.0, 10.0, 10.0],
    ]
    (hard,), _ = fast_rcnn.fast_rcnn_inference([per_class], [scores], [(52, 60)], 0.001, 0.5, 20)
    assert torch.equal(found.pred_boxes.tensor, hard.pred_boxes.tensor)  # nothing overlaps here


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda item: item.pop("sem_seg"), "a.jpg, got none"),
        (lambda item: item.update(sem_seg=item["sem_seg"][:-1]), r"of size \(63, 64\)"),
        (lambda item: item["sem_seg"].fill_(LABELS), r"in \[0, 5\) or 255, got \[5\]"),
    ],
)
def test_missing_and_wrong_label_maps_are_named(change, message):
    item = make_input(64, 64, OBJECTS, file_name="a.jpg")
    change(item)
    with pytest.raises(ValueError, match=message):
        make_model()([item])


def test_padding_of_the_batch_is_ignored_by_the_semantic_loss():
    model = make_model()
    items = [make_input(64, 96, OBJECTS), make_input(33, 40)]
    labels = model._labels(items, torch.zeros(2, 3, 64, 96))
    assert torch.equal(labels[0], items[0]["sem_seg"])
    assert torch.equal(labels[1, :33, :40], items[1]["sem_seg"])
    assert (labels[1, 33:] == 255).all() and (labels[1, :, 40:] == 255).all()


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="training needs targets and labels"):
        make_roi_heads()(None, levels(), [proposals_of([[0, 0, 9, 9]])])
