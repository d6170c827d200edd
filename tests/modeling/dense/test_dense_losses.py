"""Losses against the formulas of the papers, cell by cell."""

import math

import pytest
import torch
from dense_models import detector, item
from detectron2.structures import ImageList
from torch import distributed, multiprocessing

from vitadapter_d2.modeling.dense import ATSSAssigner
from vitadapter_d2.modeling.dense.anchors import AnchorGrid, DenseTargets
from vitadapter_d2.modeling.dense.atss import centerness_of
from vitadapter_d2.modeling.dense.losses import distribution_focal_loss, quality_focal_loss

KINDS = ("atss", "gfl")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(probability, target):
    return -(target * math.log(probability) + (1 - target) * math.log(1 - probability))


def giou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull, inter / union


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def slow_atss(cells):
    """Sums over ``(logits, box, quality, anchor, stride, object)``, and that of the weights."""
    focal = box_loss = quality_loss = weights = 0.0
    for logits, deltas, (quality,), anchor, _, found in cells:
        for index, logit in enumerate(logits):
            p = sigmoid(logit)
            is_object = found is not None and found[1] == index
            focal += (
                -0.25 * (1 - p) ** 2 * math.log(p) if is_object else -0.75 * p**2 * math.log(1 - p)
            )
        if found is None:
            continue
        side, x, y = anchor[2] - anchor[0], *centre(anchor)
        cx, cy = x + deltas[0] / 10 * side, y + deltas[1] / 10 * side
        half_w, half_h = (side * math.exp(delta / 5) / 2 for delta in deltas[2:])
        left, top, right, bottom = distances(found[0], x, y)
        centerness = math.sqrt(
            min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
        )
        box = (cx - half_w, cy - half_h, cx + half_w, cy + half_h)
        box_loss += centerness * (1 - giou(box, found[0])[0])
        quality_loss += cross_entropy(sigmoid(quality), centerness)
        weights += centerness
    losses = {"loss_cls": focal, "loss_box_reg": 2 * box_loss, "loss_centerness": quality_loss}
    return losses, weights


def slow_gfl(cells):
    """Eq. 4 and 6 of the paper."""
    focal = box_loss = distribution_loss = weights = 0.0
    for logits, sides, _, anchor, stride, found in cells:
        probabilities = [sigmoid(logit) for logit in logits]
        quality = 0.0
        if found is not None:
            x, y = centre(anchor)
            bins = [softmax(sides[17 * side : 17 * side + 17]) for side in range(4)]
            left, top, right, bottom = (
                stride * sum(number * p for number, p in enumerate(side)) for side in bins
            )
            box = (x - left, y - top, x + right, y + bottom)
            overlap, quality = giou(box, found[0])
            weight = max(probabilities)
            box_loss += weight * (1 - overlap)
            for side, distance in zip(bins, distances(found[0], x, y), strict=True):
                wanted = min(distance / stride, 15.9)
                low = math.floor(wanted)
                distribution_loss -= (
                    weight
                    / 4
                    * (
                        (low + 1 - wanted) * math.log(side[low])
                        + (wanted - low) * math.log(side[low + 1])
                    )
                )
            weights += weight
        for index, p in enumerate(probabilities):
            wanted = quality if found is not None and found[1] == index else 0.0
            focal += abs(wanted - p) ** 2 * cross_entropy(p, wanted)
    losses = {"loss_cls": focal, "loss_box_reg": 2 * box_loss, "loss_dfl": distribution_loss / 4}
    return losses, weights


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def distances(box, x, y):
    return x - box[0], y - box[1], box[2] - x, box[3] - y


def cells_of(model, batch):
    """All cells that count, and the number of positives."""
    sizes = [tuple(entry["image"].shape[1:]) for entry in batch]
    images = ImageList.from_tensors([entry["image"] for entry in batch], 32)
    with torch.no_grad():
        features = list(model.backbone(images.tensor).values())
        predictions = model.head(features)
    cells, num_positive = [], 0
    for index, ((height, width), entry) in enumerate(zip(sizes, batch, strict=True)):
        rows, anchors, counts = [], [], []
        for level, feature in enumerate(features):
            stride = 8 * 2**level
            # The image's own padding to 32 counts, that to the other images does not.
            h, w = (math.ceil(math.ceil(side / 32) * 32 / stride) for side in (height, width))
            assert h <= feature.shape[2] and w <= feature.shape[3]
            counts.append(h * w)
            for y in range(h):
                for x in range(w):
                    values = [maps[level][index, :, y, x].tolist() for maps in predictions]
                    values += [[]] * (3 - len(values))
                    rows.append((*values, stride))
                    x0, y0 = stride * (x - 4), stride * (y - 4)
                    anchors.append((x0, y0, x0 + 8 * stride, y0 + 8 * stride))
        boxes = entry["instances"].gt_boxes.tensor
        matched = ATSSAssigner()(torch.tensor(anchors).float(), counts, boxes).tolist()
        num_positive += max(sum(match >= 0 for match in matched), 1)
        for (logits, box, quality, stride), anchor, match in zip(
            rows, anchors, matched, strict=True
        ):
            classes = entry["instances"].gt_classes
            found = (boxes[match].tolist(), int(classes[match])) if match >= 0 else None
            cells.append((logits, box, quality, anchor, stride, found))
    return cells, num_positive


def make_batch():
    return [
        item(90, 70, [[5, 8, 60, 80], [30, 10, 66, 40]], [0, 4]),
        item(50, 128, [[60, 4, 126, 47]], [2]),
        item(33, 40, [], []),
    ]


def loud(kind):
    """A detector whose predictions are far from constant."""
    model = detector(kind).train()
    for name, parameter in model.head.named_parameters():
        if name.startswith(("cls_score", "bbox_pred", "centerness")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_paper(kind):
    model, batch = loud(kind), make_batch()
    losses = {name: loss.item() for name, loss in model(batch).items()}
    cells, num_positive = cells_of(model, batch)
    assert num_positive > 8
    expected, weights = {"atss": slow_atss, "gfl": slow_gfl}[kind](cells)
    for name in expected:
        weighted = name in ("loss_box_reg", "loss_dfl")
        expected[name] /= max(weights, 1) if weighted else num_positive
    assert losses == pytest.approx(expected, rel=1e-4)


def test_weights_and_qualities_are_constants():
    model = loud("gfl")
    losses = model(make_batch())
    classes, boxes = model.head.cls_score.weight, model.head.bbox_pred.weight
    (unused,) = torch.autograd.grad(losses["loss_cls"], boxes, retain_graph=True, allow_unused=True)
    assert unused is None
    others = losses["loss_box_reg"] + losses["loss_dfl"]
    assert torch.autograd.grad(others, classes, allow_unused=True) == (None,)


def test_sides_beyond_the_bins_are_cut_just_below_the_last():
    anchors = AnchorGrid(torch.tensor([[-32.0, -32.0, 32.0, 32.0]]), [(1, 1)], [8])
    index = torch.zeros(1, dtype=torch.long)
    objects = torch.tensor([[-500.0, -500.0, 500.0, 500.0]])
    targets = DenseTargets(index == 0, index, index, index, objects, 1)
    sides = torch.randn(4, 17)
    sure = torch.full((1, 6), 50.0)
    loss = detector("gfl").losses([sure, sides.view(1, -1)], anchors, targets)["loss_dfl"]
    scores = sides.log_softmax(1)
    expected = -(0.1 * scores[:, 15] + 0.9 * scores[:, 16]).mean() / 4
    torch.testing.assert_close(loss, expected)


def test_quality_focal_loss_is_zero_at_its_target():
    logits = torch.tensor([-2.0, 0.0, 1.5])
    torch.testing.assert_close(quality_focal_loss(logits, logits.sigmoid()), torch.zeros(3))
    assert (quality_focal_loss(logits, logits.sigmoid() / 2) > 0).all()


def test_distribution_focal_loss_is_least_when_the_mean_is_hit_by_the_two_bins():
    wanted = torch.tensor([2.25])
    best = torch.tensor([[0.0, 0.0, 0.75, 0.25, 0.0]]).log().clamp(min=-30)
    worse = [[0.0, 0.0, 0.5, 0.5, 0.0], [0.0, 0.5, 0.0, 0.25, 0.25]]
    least = distribution_focal_loss(best, wanted)
    for other in worse:
        assert distribution_focal_loss(torch.tensor([other]).log().clamp(min=-30), wanted) > least


def test_gradients_of_the_losses():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, targets), logits)
    numbers = torch.tensor([0.0, 1.3, 3.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, numbers), logits)


def test_centerness_is_one_in_the_middle_and_falls_outwards():
    boxes = torch.tensor([[0.0, 0.0, 8.0, 4.0]]).expand(3, 4)
    points = torch.tensor([[4.0, 2.0], [2.0, 2.0], [2.0, 1.0]])
    expected = torch.tensor([1.0, (2 / 6) ** 0.5, (2 / 6 / 3) ** 0.5])
    torch.testing.assert_close(centerness_of(points, boxes), expected)


def targets_with(num_positive):
    index = torch.zeros(2, dtype=torch.long)
    return DenseTargets(index > 0, index, index, index, torch.zeros(2, 4), num_positive)


def test_normalizers_are_at_least_one():
    assert targets_with(1).normalizers(torch.tensor([0.1, 0.2])).tolist() == [1.0, 1.0]
    values = targets_with(5).normalizers(torch.tensor([1.5, 2.5], requires_grad=True))
    assert values.tolist() == [5.0, 4.0] and not values.requires_grad


def normalizers_on_rank(rank, folder):
    if rank:  # a forked process must not use the thread pool of its parent
        torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        return targets_with(4 if rank else 10).normalizers(torch.full((2,), 1.0 + rank)).tolist()
    finally:
        distributed.destroy_process_group()


def test_normalizers_are_means_over_processes(tmp_path):
    context = multiprocessing.get_context("fork")  # no second import of torch
    other = context.Process(target=normalizers_on_rank, args=(1, tmp_path))
    other.start()
    values = normalizers_on_rank(0, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    assert values == [7.0, 3.0]


def test_strides_follow_the_levels():
    grid = AnchorGrid(torch.zeros(6, 4), [(2, 2), (1, 2)], [8, 16])
    assert grid.strides.tolist() == [8.0] * 4 + [16.0] * 2
