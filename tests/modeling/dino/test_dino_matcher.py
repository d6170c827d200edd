from itertools import permutations

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from dino_parts import K, make_boxes, make_targets

from vitadapter_d2.modeling.dino import HungarianMatcher
from vitadapter_d2.modeling.dino.structures import BoxPrediction


def make_batch(counts, num_outputs=2, num_queries=4):
    boxes = make_boxes(num_outputs, len(counts), num_queries)
    return BoxPrediction(torch.randn(*boxes.shape[:3], K), boxes), make_targets(*counts)


def giou(box, other):
    """From its definition, with Detectron2's IoU."""
    corners = [
        torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
        for x, y, w, h in (box.tolist(), other.tolist())
    ]
    iou = pairwise_iou(Boxes(corners[0]), Boxes(corners[1])).item()
    area, other_area = box[2:].prod().item(), other[2:].prod().item()
    union = (area + other_area) / (1 + iou)
    low = torch.minimum(corners[0][0, :2], corners[1][0, :2])
    high = torch.maximum(corners[0][0, 2:], corners[1][0, 2:])
    hull = (high - low).prod().item()
    return iou - (hull - union) / hull


def pair_cost(matcher, logits, box, label, wanted):
    probability = logits.sigmoid()[label]
    as_target = -matcher.alpha * (1 - probability) ** 2 * probability.log()
    as_background = -(1 - matcher.alpha) * probability**2 * (1 - probability).log()
    return (
        matcher.class_weight * (as_target - as_background)
        + matcher.l1_weight * (box - wanted).abs().sum()
        - matcher.giou_weight * giou(box, wanted)
    )


def test_costs_equal_those_of_single_pairs():
    predictions, targets = make_batch(counts=(2, 0, 3))
    matcher = HungarianMatcher(class_weight=1.5, l1_weight=4.0, giou_weight=3.0, alpha=0.3)
    costs = matcher.costs(predictions, targets)
    assert costs.shape == (2, 3, 4, 3)
    pairs = zip(targets.image_index, targets.slot, targets.labels, targets.boxes, strict=True)
    for image, slot, label, wanted in pairs:
        for output in range(2):
            for query in range(4):
                place = (output, image, query)
                expected = pair_cost(
                    matcher, predictions.logits[place], predictions.boxes[place], label, wanted
                )
                torch.testing.assert_close(costs[(*place, slot)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [(3,), (2, 4), (6, 1), (0, 2)])
def test_assignment_is_the_best_of_all_permutations(counts):
    predictions, targets = make_batch(counts)
    matcher = HungarianMatcher()
    assignment = matcher(predictions, targets)
    costs = matcher.costs(predictions, targets)
    for image, count in enumerate(counts):
        of_image = targets.image_index == image
        for output in range(2):
            matched = assignment.matched[output, of_image]
            queries = assignment.query_index[output, of_image][matched]
            assert matched.sum() == min(count, 4) == len(set(queries.tolist()))
            cost = costs[output, image, :, :count]
            total = cost[queries, matched.nonzero()[:, 0]].sum()
            torch.testing.assert_close(total, best_total(cost))


def best_total(cost):
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows, columns = cost.shape
    return torch.stack(
        [cost[list(order), range(columns)].sum() for order in permutations(range(rows), columns)]
    ).min()


def test_batch_without_targets_gives_an_empty_assignment():
    assignment = HungarianMatcher()(*make_batch(counts=(0, 0)))
    assert assignment.query_index.shape == assignment.matched.shape == (2, 0)


def test_nan_does_not_stop_the_matching():
    predictions, targets = make_batch(counts=(2, 2))
    predictions.boxes[0, 0, 1] = float("nan")
    assignment = HungarianMatcher()(predictions, targets)
    assert assignment.matched.all()
    assert 1 not in assignment.query_index[0, :2]  # the broken query is the last choice


def test_extreme_logits_have_finite_costs():
    predictions, targets = make_batch(counts=(2,))
    predictions.logits[:] = 200.0
    predictions.logits[..., 0] = -200.0
    assert HungarianMatcher().costs(predictions, targets).isfinite().all()


def test_bf16_logits_under_autocast_are_matched_in_float32():
    predictions, targets = make_batch(counts=(3,))
    halves = BoxPrediction(predictions.logits.bfloat16(), predictions.boxes)
    widened = BoxPrediction(halves.logits.float(), predictions.boxes)
    with torch.autocast("cpu", torch.bfloat16):
        costs = HungarianMatcher().costs(halves, targets)
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, HungarianMatcher().costs(widened, targets))
