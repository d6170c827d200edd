import pytest
import torch
from dino_parts import C, K, disturb, make_levels

from vitadapter_d2.modeling.dino import QuerySelection
from vitadapter_d2.modeling.dino.query_selection import make_proposals

SIZES, PADDED = [(96, 160), (70, 97)], (96, 160)


def test_proposals_are_squares_at_the_cells_that_double_with_the_level():
    levels = make_levels(SIZES, PADDED)
    proposals, is_usable = make_proposals(levels)
    token = 0
    for level, (rows, columns) in enumerate(levels.shapes):
        covered = (
            (9, 13) if level == 0 else (5, 7) if level == 1 else (3, 4) if level == 2 else (2, 2)
        )
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) / covered[1], (row + 0.5) / covered[0]
                side = 0.05 * 2**level
                expected = torch.tensor([x, y, side, side])
                torch.testing.assert_close(proposals[1, token], expected)
                is_inside = row < covered[0] and column < covered[1]
                assert bool(is_usable[1, token]) == (is_inside and max(x, y) < 0.99)
                token += 1


def test_cells_at_the_border_of_a_large_image_are_not_used():
    _, is_usable = make_proposals(make_levels([(64, 800)], (64, 800)))
    first_row = is_usable[0, :100]
    assert first_row.tolist() == [False] + [True] * 98 + [False]


def test_the_best_cells_become_queries():
    selection = disturb(QuerySelection(K, C, num_queries=7))
    levels = make_levels(SIZES, PADDED)
    memory = torch.randn(2, levels.centers.shape[1], C)
    result = selection(memory, levels)
    proposals, is_usable = make_proposals(levels)
    features = selection.norm(selection.proj(memory))
    logits = selection.class_embed(features)
    boxes = (selection.bbox_embed(features) + torch.logit(proposals, eps=1e-3)).sigmoid()
    for image in range(2):
        scores = {
            token: logits[image, token].max().item()
            for token in range(memory.shape[1])
            if is_usable[image, token]
        }
        best = sorted(scores, key=scores.get, reverse=True)[:7]
        torch.testing.assert_close(result.boxes[image], boxes[image, best])
        torch.testing.assert_close(result.prediction.logits[0, image], logits[image, best])
        torch.testing.assert_close(result.prediction.boxes[0, image], boxes[image, best])
        assert torch.equal(result.content[image], selection.content.weight)


def test_padding_is_never_selected_before_the_image():
    selection = QuerySelection(K, C, num_queries=7)
    levels = make_levels(SIZES, PADDED)
    memory = torch.randn(2, levels.centers.shape[1], C)
    best = selection.proj.weight.new_zeros(C)
    with torch.no_grad():  # a direction that scores highest
        best[:] = torch.linalg.pinv(selection.proj.weight) @ selection.class_embed.weight[0]
    memory[1, levels.padding[1]] = 100 * best
    boxes = selection(memory, levels).boxes
    assert (boxes[1, :, :2] < 1).all()
    memory_inside = memory.clone()
    memory_inside[1, levels.padding[1]] = 0
    torch.testing.assert_close(boxes, selection(memory_inside, levels).boxes)


def test_references_have_no_gradient_and_the_supervised_prediction_has():
    selection = disturb(QuerySelection(K, C, num_queries=7))
    levels = make_levels(SIZES, PADDED)
    memory = torch.randn(2, levels.centers.shape[1], C, requires_grad=True)
    result = selection(memory, levels)
    assert not result.boxes.requires_grad
    (result.prediction.boxes.sum() + result.prediction.logits.sum()).backward()
    assert memory.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(32, 32), (1, 1)])
def test_small_images_have_as_many_queries_as_cells(size):
    selection = QuerySelection(K, C, num_queries=50)
    levels = make_levels([size], (32, 32))
    count = levels.centers.shape[1]
    result = selection(torch.randn(1, count, C), levels)
    assert result.boxes.shape == (1, count, 4) and count < 50
    assert result.boxes.isfinite().all() and result.content.shape == (1, count, C)
