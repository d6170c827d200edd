import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, multiprocessing

from vitadapter_d2.layers.point_sample import sample_points
from vitadapter_d2.modeling.mask2former.criterion import SetCriterion
from vitadapter_d2.modeling.mask2former.matcher import HungarianMatcher
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction, MaskTargets

K, Q, L, P = 4, 5, 3, 24


def make_batch(counts, seed=0):
    torch.manual_seed(seed)
    predictions = [
        MaskPrediction(
            torch.randn(len(counts), Q, K + 1, requires_grad=True),
            torch.randn(len(counts), Q, 6, 8, requires_grad=True),
        )
        for _ in range(L)
    ]
    labels = [torch.randint(0, K, (count,)) for count in counts]
    masks = [torch.rand(count, 24, 32) > 0.5 for count in counts]
    return predictions, MaskTargets.pad(labels, masks, (24, 32))


def make_criterion(**kwargs):
    return SetCriterion(
        num_classes=K, matcher=HungarianMatcher(num_points=P), num_points=P, **kwargs
    )


def slow_losses(criterion, predictions, targets, seed):
    """One output, one image, one target at a time, with the same random numbers."""
    torch.manual_seed(seed)
    assignment = criterion.matcher(predictions, targets)
    total = sum(targets.counts)
    num_candidates, num_important = int(P * 3.0), int(P * 0.75)
    candidates = torch.rand(L, total, num_candidates, 2)
    uniform = torch.rand(L, total, P - num_important, 2)
    losses = {}
    for output, prediction in enumerate(predictions):
        suffix = "" if output == L - 1 else f"_{output}"
        classes = torch.full((len(targets.counts), Q), K)
        bce = dice = torch.zeros(())
        start = 0
        for image, count in enumerate(targets.counts):
            for target in range(start, start + count):
                if not assignment.matched[output, target]:
                    continue
                query = assignment.query_index[output, target]
                classes[image, query] = targets.labels[target]
                logits = prediction.pred_masks[image, query][None, None]
                drawn = candidates[output, target]
                order = sample_points(logits, drawn[None])[0, 0].abs().argsort()
                points = torch.cat((drawn[order[:num_important]], uniform[output, target]))[None]
                x = sample_points(logits, points)[0, 0]
                t = sample_points(targets.masks[target][None, None], points)[0, 0]
                bce = bce + F.binary_cross_entropy_with_logits(x, t)
                p = x.sigmoid()
                dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            start += count
        ce = F.cross_entropy(
            prediction.pred_logits.flatten(0, 1), classes.flatten(), criterion.empty_weight
        )
        losses[f"loss_ce{suffix}"] = criterion.class_weight * ce
        losses[f"loss_mask{suffix}"] = criterion.mask_weight * bce / max(total, 1)
        losses[f"loss_dice{suffix}"] = criterion.dice_weight * dice / max(total, 1)
    return losses


@pytest.mark.parametrize("counts", [(3,), (2, 4), (2, 0, 1), (7, 2)])
def test_losses_equal_a_loop_over_outputs_images_and_targets(counts):
    predictions, targets = make_batch(counts)
    criterion = make_criterion(class_weight=2.5, mask_weight=4.0, dice_weight=3.0)
    torch.manual_seed(3)
    losses = criterion(predictions, targets)
    expected = slow_losses(criterion, predictions, targets, seed=3)
    assert losses.keys() == expected.keys()
    assert {"loss_ce", "loss_mask_0", f"loss_dice_{L - 2}"} <= losses.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda text, name=name: name + text)

    leaves = [part for each in predictions for part in (each.pred_logits, each.pred_masks)]
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    wanted = torch.autograd.grad(sum(expected.values()), leaves)
    for gradient, value in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, value)


def test_batch_without_targets_has_zero_mask_losses_with_a_graph():
    predictions, targets = make_batch((0, 0))
    losses = make_criterion()(predictions, targets)
    for name, loss in losses.items():
        assert loss.requires_grad, name
        assert (loss > 0) if name.startswith("loss_ce") else (loss == 0), name
    sum(losses.values()).backward()
    for prediction in predictions:
        assert (prediction.pred_masks.grad == 0).all()
        assert (prediction.pred_logits.grad != 0).any()


def test_unmatched_targets_count_in_the_normaliser_and_nowhere_else():
    predictions, targets = make_batch((9,))
    criterion = make_criterion()
    torch.manual_seed(1)
    losses = criterion(predictions, targets)
    # With the same logits everywhere each matched mask costs log 2, 5 of 9 are matched.
    for prediction in predictions:
        prediction.pred_masks.data.zero_()
    losses = criterion(predictions, targets)
    expected = 5 * torch.tensor(2.0).log() * Q / 9
    torch.testing.assert_close(losses["loss_mask"], expected)


def test_perfect_predictions_cost_almost_nothing():
    labels = [torch.tensor([1, 3])]
    masks = torch.zeros(1, 2, 24, 32)
    masks[0, 0, :12], masks[0, 1, 12:] = 1, 1
    targets = MaskTargets.pad(labels, list(masks), (24, 32))
    classes = torch.full((1, Q, K + 1), -20.0)
    classes[0, 4, 1] = classes[0, 2, 3] = 20.0
    classes[0, [0, 1, 3], K] = 20.0
    logits = torch.full((1, Q, 24, 32), -20.0)
    logits[0, 4], logits[0, 2] = 20 * (2 * masks[0, 0] - 1), 20 * (2 * masks[0, 1] - 1)
    criterion = SetCriterion(
        num_classes=K, matcher=HungarianMatcher(), importance_ratio=0.0, num_points=2000
    )
    losses = criterion([MaskPrediction(classes, logits)], targets)
    assert losses["loss_ce"] < 1e-6
    assert losses["loss_dice"] < 0.1 and losses["loss_mask"] < 2  # the shared edge is blurred


def test_nan_reaches_the_loss():
    predictions, targets = make_batch((2,))
    predictions[-1].pred_masks.data[:] = float("nan")
    losses = make_criterion()(predictions, targets)
    assert losses["loss_mask"].isnan()
    assert losses["loss_mask_0"].isfinite()


def test_losses_are_float32_under_autocast_with_bf16_predictions():
    predictions, targets = make_batch((2, 1))
    halves = [
        MaskPrediction(output.pred_logits.bfloat16(), output.pred_masks.bfloat16())
        for output in predictions
    ]
    with torch.autocast("cpu", torch.bfloat16):
        losses = make_criterion()(halves, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_no_object_weight_is_a_stored_buffer():
    state = make_criterion(no_object_weight=0.3).state_dict()
    assert list(state) == ["empty_weight"]
    torch.testing.assert_close(state["empty_weight"], torch.tensor([1.0] * K + [0.3]))


@pytest.mark.parametrize(
    ("name", "value"), [("num_points", 0), ("oversample_ratio", 0.5), ("importance_ratio", 1.5)]
)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        SetCriterion(num_classes=K, matcher=HungarianMatcher(), **{name: value})


def loss_on_rank(rank, counts, store, queue=None):
    if rank:  # a forked process must not use the thread pool of its parent
        torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        predictions, targets = make_batch(counts)
        for prediction in predictions:
            prediction.pred_masks.data.zero_()
        loss = make_criterion()(predictions, targets)["loss_mask"].item()
    finally:
        distributed.destroy_process_group()
    if queue is not None:
        queue.put(loss)
    return loss


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.parametrize(
    ("first", "second", "masks_per_rank"), [((1, 0), (3, 2), 3), ((0,), (5,), 2.5), ((0,), (1,), 1)]
)
def test_masks_are_counted_over_ranks_and_at_least_one(tmp_path, first, second, masks_per_rank):
    context = multiprocessing.get_context("fork")  # no second import of torch
    queue = context.Queue()
    other = context.Process(target=loss_on_rank, args=(1, second, tmp_path / "store", queue))
    other.start()
    losses = (loss_on_rank(0, first, tmp_path / "store"), queue.get(timeout=60))
    other.join(60)
    assert other.exitcode == 0
    # An undecided mask costs log 2, times the weight 5.
    expected = [5 * math.log(2) * sum(counts) / masks_per_rank for counts in (first, second)]
    assert losses == pytest.approx(expected, rel=1e-5)
