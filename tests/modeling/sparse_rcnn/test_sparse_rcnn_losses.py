import itertools
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import distributed, multiprocessing

from vitadapter_d2.modeling.sparse_rcnn import (
    BoxPrediction,
    BoxTargets,
    HungarianMatcher,
    SetCriterion,
)

L, Q, K = 2, 4, 3
SIZES = ((40, 60), (30, 50), (64, 32))  # height, width


def random_boxes(*shape):
    corners = torch.rand(*shape, 2) * 25
    return torch.cat([corners, corners + 1 + torch.rand(*shape, 2) * 20], dim=-1)


def make_batch(counts):
    prediction = BoxPrediction(
        torch.randn(L, len(counts), Q, K, requires_grad=True),
        random_boxes(L, len(counts), Q).requires_grad_(),
    )
    return prediction, make_targets(counts)


def make_targets(counts):
    sizes = SIZES[: len(counts)]
    return BoxTargets(
        torch.randint(0, K, (sum(counts),)),
        random_boxes(sum(counts)),
        tuple(counts),
        torch.tensor([(w, h, w, h) for h, w in sizes], dtype=torch.float32),
    )


def make_criterion(**weights):
    return SetCriterion(matcher=HungarianMatcher(), **weights)


def of_image(targets, image):
    """Labels and boxes of one image, as Python's numbers, and its sides."""
    start, end = (sum(targets.counts[: image + more]) for more in (0, 1))
    labels, boxes = targets.labels[start:end].tolist(), targets.boxes[start:end].tolist()
    return list(zip(labels, boxes, strict=True)), targets.image_whwh[image].tolist()


def giou(a, b):
    intersection = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0, min(a[3], b[3]) - max(a[1], b[1])
    )
    union = area(a) + area(b) - intersection
    hull = area([*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:])])
    return intersection / union - (hull - union) / hull


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def l1(a, b, sides):
    return sum(abs(x - y) / side for x, y, side in zip(a, b, sides, strict=True))


def focal(logit, is_object):
    probability = 1 / (1 + math.exp(-logit))
    if is_object:
        return -0.25 * (1 - probability) ** 2 * math.log(probability)
    return -0.75 * probability**2 * math.log(1 - probability)


def pair_cost(logits, box, label, wanted, sides):
    class_cost = focal(logits[label], True) - focal(logits[label], False)
    return 2 * class_cost + 5 * l1(box, wanted, sides) - 2 * giou(box, wanted)


def test_costs_are_those_of_the_pairs():
    prediction, targets = make_batch((3, 0, 2))
    costs = HungarianMatcher().costs(prediction, targets)
    assert costs.shape == (L, 3, Q, 3)
    for stage, image, query in itertools.product(range(L), range(3), range(Q)):
        logits = prediction.logits[stage, image, query].tolist()
        box = prediction.boxes[stage, image, query].tolist()
        objects, sides = of_image(targets, image)
        for column, (label, wanted) in enumerate(objects):
            expected = pair_cost(logits, box, label, wanted, sides)
            assert costs[stage, image, query, column].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("part", ["class_weight", "l1_weight", "giou_weight"])
def test_each_weight_scales_its_cost(part):
    prediction, targets = make_batch((2,))
    off = dict.fromkeys(("class_weight", "l1_weight", "giou_weight"), 0.0)
    once = HungarianMatcher(**off | {part: 1.0}).costs(prediction, targets)
    thrice = HungarianMatcher(**off | {part: 3.0}).costs(prediction, targets)
    assert once.abs().min() > 0
    torch.testing.assert_close(thrice, 3 * once)


def best_assignment(prediction, targets, stage, image):
    """Of all ways to give each object a proposal of its own, the cheapest."""
    objects, sides = of_image(targets, image)
    logits = prediction.logits[stage, image].tolist()
    boxes = prediction.boxes[stage, image].tolist()
    return min(
        itertools.permutations(range(Q), len(objects)),
        key=lambda queries: sum(
            pair_cost(logits[query], boxes[query], *pair, sides)
            for query, pair in zip(queries, objects, strict=True)
        ),
    )


def test_the_assignment_is_the_cheapest():
    prediction, targets = make_batch((3, 0, 2))
    assignment = HungarianMatcher()(prediction, targets)
    assert assignment.matched.all()
    for stage in range(L):
        queries = assignment.query_index[stage].split(targets.counts)
        for image in range(3):
            expected = best_assignment(prediction, targets, stage, image)
            assert tuple(queries[image].tolist()) == expected


def test_losses_are_sums_over_the_number_of_objects():
    counts = (3, 0, 2)
    prediction, targets = make_batch(counts)
    losses = make_criterion()(prediction, targets)
    assert set(losses) == {
        kind + end for kind in ("loss_cls", "loss_bbox", "loss_giou") for end in ("", "_0")
    }
    for stage, suffix in enumerate(("_0", "")):
        class_sum = l1_sum = giou_sum = 0
        for image in range(len(counts)):
            objects, sides = of_image(targets, image)
            queries = best_assignment(prediction, targets, stage, image)
            label_of = {}
            for query, (label, wanted) in zip(queries, objects, strict=True):
                label_of[query] = label
                box = prediction.boxes[stage, image, query].tolist()
                l1_sum += l1(box, wanted, sides)
                giou_sum += 1 - giou(box, wanted)
            for query, label in itertools.product(range(Q), range(K)):
                logit = prediction.logits[stage, image, query, label].item()
                class_sum += focal(logit, label_of.get(query) == label)
        total = sum(counts)
        assert losses[f"loss_cls{suffix}"].item() == pytest.approx(2 * class_sum / total, rel=1e-4)
        assert losses[f"loss_bbox{suffix}"].item() == pytest.approx(5 * l1_sum / total, rel=1e-4)
        assert losses[f"loss_giou{suffix}"].item() == pytest.approx(2 * giou_sum / total, rel=1e-4)


def test_only_matched_boxes_learn_but_every_class():
    prediction, targets = make_batch((2, 1))
    sum(make_criterion()(prediction, targets).values()).backward()
    moved = prediction.boxes.grad.abs().sum(-1) > 0
    assert moved.sum((1, 2)).tolist() == [3, 3]
    assert (prediction.logits.grad != 0).all()


def test_without_objects_all_classes_fall_and_boxes_keep_their_graph():
    prediction, targets = make_batch((0, 0))
    losses = make_criterion()(prediction, targets)
    sum(losses.values()).backward()
    expected = sum(focal(logit, False) for logit in prediction.logits[-1].flatten().tolist())
    assert losses["loss_cls"].item() == pytest.approx(2 * expected, rel=1e-4)  # over one object
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    assert (prediction.logits.grad > 0).all()
    assert not prediction.boxes.grad.any()


def test_more_objects_than_proposals_leaves_the_others_out():
    prediction, targets = make_batch((Q + 3, 1))
    targets.labels[:] = 1  # none of those left over may take a proposal's class away
    losses = make_criterion()(prediction, targets)
    assert HungarianMatcher()(prediction, targets).matched.sum(1).tolist() == [Q + 1] * L
    with torch.no_grad():  # the same objects without those left over
        kept = HungarianMatcher()(prediction, targets).matched[0]
        fewer = BoxTargets(targets.labels[kept], targets.boxes[kept], (Q, 1), targets.image_whwh)
        one_stage = BoxPrediction(prediction.logits[:1], prediction.boxes[:1])
        expected = make_criterion()(one_stage, fewer)
    for kind in ("loss_cls", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(losses[f"{kind}_0"], expected[kind])


def test_boxes_without_area_and_apart_stay_finite():
    targets = make_targets((2,))
    targets.boxes[0, 2:] = targets.boxes[0, :2]
    targets.boxes[1] = torch.tensor([1.0, 1.0, 1.0, 1.0])
    boxes = random_boxes(L, 1, Q)
    boxes[:, 0, 0] = 1.0  # the same point as an object
    prediction = BoxPrediction(torch.zeros(L, 1, Q, K), boxes.requires_grad_())
    losses = make_criterion()(prediction, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert boxes.grad.isfinite().all()


def test_predictions_that_are_no_numbers_show_in_the_losses():
    prediction, targets = make_batch((2,))
    with torch.no_grad():
        prediction.boxes[:] = math.nan
    assert make_criterion()(prediction, targets)["loss_bbox"].isnan()


def loss_on_rank(rank, counts, store, queue=None):
    if rank:  # a forked process must not use the thread pool of its parent
        torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        # Whatever the match, each object costs the same.
        targets = BoxTargets(
            torch.zeros(sum(counts), dtype=torch.int64),
            torch.tensor([[0.0, 0.0, 5.0, 4.0]]).repeat(sum(counts), 1),
            counts,
            torch.full((len(counts), 4), 10.0),
        )
        boxes = torch.tensor([0.0, 0.0, 10.0, 4.0]).expand(1, len(counts), Q, 4)
        prediction = BoxPrediction(torch.zeros(1, len(counts), Q, K), boxes)
        losses = make_criterion()(prediction, targets)
    finally:
        distributed.destroy_process_group()
    values = [losses[kind].item() for kind in ("loss_bbox", "loss_cls")]
    if queue is not None:
        queue.put(values)
    return values


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
@pytest.mark.parametrize(
    ("first", "second", "objects_per_rank"),
    [((1, 0), (3, 2), 3), ((0,), (1,), 0.5), ((0,), (0,), 0.5)],
)
def test_objects_are_counted_over_ranks(tmp_path, first, second, objects_per_rank):
    context = multiprocessing.get_context("fork")  # no second import of torch
    queue = context.Queue()
    other = context.Process(target=loss_on_rank, args=(1, second, tmp_path / "store", queue))
    other.start()
    losses = (loss_on_rank(0, first, tmp_path / "store"), queue.get(timeout=60))
    other.join(60)
    assert other.exitcode == 0
    for (l1_loss, class_loss), counts in zip(losses, (first, second), strict=True):
        count, logits = sum(counts), len(counts) * Q * K
        class_sum = count * focal(0.0, True) + (logits - count) * focal(0.0, False)
        assert l1_loss == pytest.approx(5 * 0.5 * count / objects_per_rank, rel=1e-5)
        assert class_loss == pytest.approx(2 * class_sum / objects_per_rank, rel=1e-5)


def make_instances(classes, boxes):
    instances = Instances((40, 60))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_boxes = Boxes(torch.tensor(boxes))
    return instances


def test_targets_join_images():
    whwh = torch.full((3, 4), 50.0)
    instances = [
        make_instances([2], [[0.0, 1.0, 2.0, 3.0]]),
        Instances((40, 60)),
        make_instances([0, 1], [[1.0, 1.0, 2.0, 2.0], [4.0, 4.0, 5.0, 6.0]]),
    ]
    targets = BoxTargets.from_instances(instances, K, whwh)
    assert targets.counts == (1, 0, 2)
    assert targets.labels.tolist() == [2, 0, 1]
    assert targets.image_index.tolist() == [0, 2, 2]
    assert targets.boxes.tolist() == [[0, 1, 2, 3], [1, 1, 2, 2], [4, 4, 5, 6]]
    assert targets.image_whwh is whwh


@pytest.mark.parametrize(
    ("classes", "boxes", "message"),
    [
        ([3], [[0.0, 0.0, 1.0, 1.0]], r"gt_classes must be in \[0, 3\), got 3 to 3"),
        ([-1], [[0.0, 0.0, 1.0, 1.0]], r"gt_classes must be in \[0, 3\), got -1 to -1"),
        ([0], [[0.0, 0.0, math.nan, 1.0]], "gt_boxes must be finite"),
        ([0], [[0.0, 0.0, math.inf, 1.0]], "gt_boxes must be finite"),
        ([0], [[5.0, 5.0, 2.0, 8.0]], r"x1 <= x2 .* got \[5.0, 5.0, 2.0, 8.0\]"),
    ],
)
def test_wrong_targets_are_refused(classes, boxes, message):
    with pytest.raises(ValueError, match=message):
        BoxTargets.from_instances([make_instances(classes, boxes)], K, torch.ones(1, 4))


def test_targets_without_boxes_are_refused():
    instances = Instances((40, 60), gt_classes=torch.tensor([1]))
    with pytest.raises(ValueError, match=r"need \['gt_boxes'\], got \['gt_classes'\]"):
        BoxTargets.from_instances([instances], K, torch.ones(1, 4))
