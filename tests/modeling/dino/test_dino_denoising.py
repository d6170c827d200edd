import pytest
import torch
from dino_parts import C, K, disturb, make_boxes, make_decoder, make_levels, make_targets
from torchvision.ops import box_convert

from vitadapter_d2.modeling.dino import ContrastiveDenoising


def queries_by_place(noise, largest):
    """``(group, is_negative, slot)`` of each denoising query."""
    return [
        (group, is_negative, slot)
        for group in range(noise.num_groups)
        for is_negative in (False, True)
        for slot in range(largest)
    ]


@pytest.mark.parametrize(
    ("counts", "num_groups"), [((1,), 10), ((3, 1), 3), ((4,), 2), ((25, 2), 1), ((0, 2), 5)]
)
def test_groups_share_the_number_of_queries(counts, num_groups):
    noise = ContrastiveDenoising(K, C, num_queries=10)(make_targets(*counts))
    num_noisy = 2 * max(counts) * num_groups
    assert noise.num_groups == num_groups
    assert noise.content.shape == (len(counts), num_noisy, C)
    assert noise.boxes.shape == (len(counts), num_noisy, 4)
    places = queries_by_place(noise, max(counts))
    for image, count in enumerate(counts):
        assert noise.is_real[image].tolist() == [slot < count for _, _, slot in places]


def test_target_queries_are_the_positive_ones_of_their_box():
    targets = make_targets(3, 1)
    noise = ContrastiveDenoising(K, C, num_queries=6, label_noise=0, box_noise=0)(targets)
    found = noise.target_queries(targets)
    assert found.shape == (2, 4)
    places = queries_by_place(noise, 3)
    for group in range(2):
        for box, slot in enumerate((0, 1, 2, 0)):
            assert places[found[group, box]] == (group, False, slot)
    rows = found[0] + torch.tensor([0, 0, 0, noise.boxes.shape[1]])
    torch.testing.assert_close(noise.boxes.flatten(0, 1)[rows], targets.boxes)


def test_positive_boxes_stay_near_and_negative_ones_do_not():
    scale, targets = 0.4, make_targets(5, 5)
    noise = ContrastiveDenoising(K, C, num_queries=500, box_noise=scale)(targets)
    boxes = noise.boxes.view(2, noise.num_groups, 2, 5, 4)
    truth = targets.boxes.view(2, 1, 1, 5, 4)
    corners = box_convert(boxes, "cxcywh", "xyxy") - box_convert(truth, "cxcywh", "xyxy")
    moved = (corners / (truth[..., 2:].repeat(1, 1, 1, 1, 2) / 2 * scale)).abs()
    positive, negative = moved[:, :, 0], moved[:, :, 1]
    assert positive.min() < 0.05 and 0.95 < positive.max() <= 1 + 1e-4
    assert 1 - 1e-4 <= negative.min() < 1.05 and 1.95 < negative.max() <= 2 + 1e-4
    assert 0.4 < (corners > 0).float().mean() < 0.6  # both signs


def test_strong_noise_keeps_boxes_inside_of_the_image():
    targets = make_targets(8)
    targets.boxes[:, :2] = torch.rand(8, 2)  # some reach beyond the image
    boxes = ContrastiveDenoising(K, C, num_queries=400, box_noise=2.0)(targets).boxes
    assert boxes.min() >= 1e-3 and boxes.max() <= 1 - 1e-3


def test_labels_are_those_of_the_truth_up_to_noise():
    targets = make_targets(4, 4)
    for label_noise in (0.0, 0.6):
        torch.manual_seed(1)
        denoising = ContrastiveDenoising(K, C, num_queries=2000, label_noise=label_noise)
        content = denoising(targets).content.view(2, -1, 2, 4, C)
        truth = denoising.label_embed(targets.labels).view(2, 1, 1, 4, C)
        changed = (content != truth).any(-1).float().mean().item()
        # Half of label_noise is drawn anew, one of K of these unchanged.
        assert changed == pytest.approx(label_noise / 2 * (1 - 1 / K), abs=0.02)


def test_the_mask_lets_a_group_see_itself_and_the_matching_queries():
    targets = make_targets(2, 1)
    noise = ContrastiveDenoising(K, C, num_queries=4)(targets)
    allowed = noise.allowed(num_queries=3)
    places = [*queries_by_place(noise, 2), *[None] * 3]
    for image, count in enumerate((2, 1)):
        for row, seeing in enumerate(places):
            for column, seen in enumerate(places):
                if seen is None:
                    expected = True
                elif seeing is None:
                    expected = False
                else:
                    expected = seeing[0] == seen[0] and seen[2] < count
                assert bool(allowed[image, row, column]) == expected


def changed_queries(decoder, noise, queries, boxes, memory, levels, change):
    """Which queries' results differ if some queries' content and boxes are others."""
    allowed = noise.allowed(queries.shape[1] - noise.content.shape[1])
    before = decoder(queries, boxes, memory, levels, allowed).logits[-1]
    queries, boxes = queries.clone(), boxes.clone()
    queries[:, change] += 1
    boxes[:, change] = make_boxes(*boxes[:, change].shape[:2])
    after = decoder(queries, boxes, memory, levels, allowed).logits[-1]
    return ((before - after).abs() > 1e-6).any(-1).any(0).nonzero()[:, 0].tolist()


def test_nothing_leaks_through_the_decoder():
    decoder, levels = disturb(make_decoder()), make_levels([(64, 64)], (64, 64))
    noise = ContrastiveDenoising(K, C, num_queries=4)(make_targets(2))
    queries = torch.cat((noise.content, torch.randn(1, 3, C)), dim=1)
    boxes = torch.cat((noise.boxes, make_boxes(1, 3)), dim=1)
    case = (decoder, noise, queries, boxes, torch.randn(1, levels.centers.shape[1], C), levels)
    assert changed_queries(*case, change=[0, 3]) == [0, 1, 2, 3]  # the first group alone
    assert changed_queries(*case, change=[5]) == [4, 5, 6, 7]
    assert changed_queries(*case, change=[9]) == list(range(11))  # the groups see the others


def test_what_fills_up_an_image_is_seen_by_nobody():
    decoder, levels = disturb(make_decoder()), make_levels([(64, 64)] * 2, (64, 64))
    noise = ContrastiveDenoising(K, C, num_queries=3)(make_targets(3, 1))
    memory = torch.randn(2, levels.centers.shape[1], C)
    queries = torch.cat((noise.content, torch.randn(2, 2, C)), dim=1)
    allowed, boxes = noise.allowed(2), torch.cat((noise.boxes, make_boxes(2, 2)), dim=1)
    before = decoder(queries, boxes, memory, levels, allowed)
    fills = ~torch.cat((noise.is_real, torch.ones(2, 2, dtype=torch.bool)), dim=1)
    other = torch.where(fills[..., None], queries + 3, queries)
    after = decoder(other, boxes, memory, levels, allowed)
    assert fills.sum() == 4
    torch.testing.assert_close(after.boxes[:, ~fills], before.boxes[:, ~fills])
    assert after.boxes.isfinite().all()


def test_without_boxes_there_are_no_queries_but_a_gradient():
    denoising = ContrastiveDenoising(K, C)
    targets = make_targets(0, 0)
    noise = denoising(targets)
    assert noise.content.shape == (2, 0, C) and noise.boxes.shape == (2, 0, 4)
    assert noise.allowed(5).all() and noise.allowed(5).shape == (2, 5, 5)
    assert noise.target_queries(targets).numel() == 0
    noise.content.sum().backward()
    assert torch.equal(denoising.label_embed.weight.grad, torch.zeros(K, C))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": 1.5}, r"label_noise must be in \[0, 1\], got 1.5"),
        ({"box_noise": -1.0}, "box_noise must be at least 0, got -1.0"),
    ],
)
def test_impossible_noise_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveDenoising(K, C, **options)
