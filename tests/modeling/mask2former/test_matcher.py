from itertools import permutations

import pytest
import torch

from vitadapter_d2.layers.losses import dice_loss, mask_bce_loss
from vitadapter_d2.layers.point_sample import sample_points
from vitadapter_d2.modeling.mask2former.matcher import HungarianMatcher
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction, MaskTargets

K = 4


def make_batch(counts, num_outputs=2, num_queries=4, seed=0):
    torch.manual_seed(seed)
    predictions = [
        MaskPrediction(
            torch.randn(len(counts), num_queries, K + 1),
            3 * torch.randn(len(counts), num_queries, 6, 8),
        )
        for _ in range(num_outputs)
    ]
    labels = [torch.randint(0, K, (count,)) for count in counts]
    masks = [torch.rand(count, 24, 32) > 0.5 for count in counts]
    return predictions, MaskTargets.pad(labels, masks, (24, 32))


def pair_cost(matcher, output, image, query, label, mask, points):
    """Cost of one query and one target, straight from the definition."""
    logits = sample_points(output.pred_masks[image, query][None, None], points[None])[0, 0]
    target = sample_points(mask[None, None], points[None])[0, 0]
    probability = output.pred_logits[image, query].softmax(-1)[label]
    return (
        -matcher.class_weight * probability
        + matcher.mask_weight * mask_bce_loss(logits, target)
        + matcher.dice_weight * dice_loss(logits, target)
    )


def test_costs_equal_those_of_single_pairs():
    predictions, targets = make_batch(counts=(2, 0, 3))
    matcher = HungarianMatcher(class_weight=1.5, mask_weight=4.0, dice_weight=3.0)
    points = torch.rand(2, 3, 50, 2)
    costs = matcher.costs(predictions, targets, points)
    assert costs.shape == (2, 3, 4, 3)
    start = 0
    for image, count in enumerate(targets.counts):
        for target in range(count):
            label, mask = targets.labels[start + target], targets.masks[start + target]
            for output in range(2):
                for query in range(4):
                    expected = pair_cost(
                        matcher, predictions[output], image, query, label, mask,
                        points[output, image],
                    )  # fmt: skip
                    actual = costs[output, image, query, target]
                    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        start += count


@pytest.mark.parametrize("counts", [(3,), (2, 4), (6, 1), (0, 2)])
def test_assignment_is_the_best_of_all_permutations(counts):
    predictions, targets = make_batch(counts)
    matcher = HungarianMatcher(num_points=40)
    torch.manual_seed(7)
    assignment = matcher(predictions, targets)
    torch.manual_seed(7)
    costs = matcher.costs(predictions, targets, torch.rand(2, len(counts), 40, 2))
    start = 0
    for image, count in enumerate(counts):
        targets_of_image = slice(start, start + count)
        for output in range(2):
            matched = assignment.matched[output, targets_of_image]
            queries = assignment.query_index[output, targets_of_image][matched]
            assert matched.sum() == min(count, 4) == len(set(queries.tolist()))
            total = costs[output, image, queries, matched.nonzero()[:, 0]].sum()
            torch.testing.assert_close(total, best_total(costs[output, image, :, :count]))
        start += count


def best_total(cost):
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows, columns = cost.shape
    totals = [
        sum(cost[row, column] for column, row in enumerate(order))
        for order in permutations(range(rows), columns)
    ]
    return torch.stack([torch.as_tensor(total) for total in totals]).min().to(cost.dtype)


def test_targets_without_query_are_marked():
    predictions, targets = make_batch(counts=(7,))
    assignment = HungarianMatcher(num_points=10)(predictions, targets)
    assert assignment.matched.sum(1).tolist() == [4, 4]
    assert (assignment.query_index[~assignment.matched] == 0).all()


def test_batch_without_targets_gives_an_empty_assignment():
    predictions, targets = make_batch(counts=(0, 0))
    assignment = HungarianMatcher(num_points=10)(predictions, targets)
    assert assignment.query_index.shape == assignment.matched.shape == (2, 0)


def test_nan_and_infinity_do_not_stop_the_matching():
    predictions, targets = make_batch(counts=(2, 2))
    predictions[0].pred_masks[0, 1] = float("nan")
    predictions[1].pred_logits[:] = float("inf")
    assignment = HungarianMatcher(num_points=10)(predictions, targets)
    assert assignment.matched.all()
    assert 1 not in assignment.query_index[0, :2]  # the broken query is the last choice


def test_bf16_predictions_under_autocast_are_matched_in_float32():
    predictions, targets = make_batch(counts=(3,))
    points = torch.rand(2, 1, 30, 2)
    matcher = HungarianMatcher()
    halves = [
        MaskPrediction(output.pred_logits.bfloat16(), output.pred_masks.bfloat16())
        for output in predictions
    ]
    widened = [
        MaskPrediction(output.pred_logits.float(), output.pred_masks.float()) for output in halves
    ]
    with torch.autocast("cpu", torch.bfloat16):
        costs = matcher.costs(halves, targets, points)
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, matcher.costs(widened, targets, points))


def test_no_points_is_an_error():
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        HungarianMatcher(num_points=0)
