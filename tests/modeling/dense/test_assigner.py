import math
import statistics

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from vitadapter_d2.modeling.dense import ATSSAssigner
from vitadapter_d2.modeling.dense.anchors import AnchorGrid

SHAPES, STRIDES = [(13, 17), (7, 9), (4, 5)], [8, 16, 32]


def make_grid(shapes=SHAPES, strides=STRIDES):
    """Anchors eight strides wide around the corners of the cells."""
    boxes = [
        (x * s - 4 * s, y * s - 4 * s, x * s + 4 * s, y * s + 4 * s)
        for (height, width), s in zip(shapes, strides, strict=True)
        for y in range(height)
        for x in range(width)
    ]
    return AnchorGrid(torch.tensor(boxes, dtype=torch.float32), shapes, strides)


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([110.0, 80.0])
    return torch.cat((low, low + 3 + torch.rand(count, 2, generator=generator) * 60), dim=1)


def slow_assignment(grid, boxes, topk):
    """Algorithm 1 of the paper, object by object."""
    overlaps = pairwise_iou(Boxes(boxes), Boxes(grid.boxes)).tolist()
    anchors = grid.boxes.tolist()
    best = {}
    for index, box in enumerate(boxes.tolist()):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, start = [], 0
        for size in grid.level_sizes:
            level = sorted(
                range(start, start + size),
                key=lambda a: math.dist((cx, cy), centre(anchors[a])),
            )
            candidates += level[:topk]
            start += size
        ious = [overlaps[index][a] for a in candidates]
        threshold = statistics.mean(ious) + statistics.stdev(ious)
        for a in candidates:
            x, y = centre(anchors[a])
            is_inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlaps[index][a] >= threshold and is_inside:
                best[a] = max(best.get(a, (-1, -1)), (overlaps[index][a], index))
    return torch.tensor([best[a][1] if a in best else -1 for a in range(len(anchors))])


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_that_of_the_paper(seed):
    grid, boxes = make_grid(), random_boxes(12, seed)
    assigned = ATSSAssigner(topk=5)(grid.boxes, grid.level_sizes, boxes)
    expected = slow_assignment(grid, boxes, topk=5)
    assert (expected >= 0).sum() > 12
    assert assigned.tolist() == expected.tolist()


def test_an_anchor_of_two_objects_goes_to_the_better_one():
    grid = make_grid([(3, 3)], [8])
    wide, near = [-40.0, -25.0, 60.0, 45.0], [-22.0, -24.0, 41.0, 40.0]
    assigner = ATSSAssigner()
    alone = assigner(grid.boxes, grid.level_sizes, torch.tensor([wide]))
    both = assigner(grid.boxes, grid.level_sizes, torch.tensor([wide, near]))
    assert alone[4] == 0 and both[4] == 1


def test_no_objects_make_all_background():
    grid = make_grid()
    assigned = ATSSAssigner()(grid.boxes, grid.level_sizes, torch.zeros(0, 4))
    assert assigned.dtype == torch.int64 and len(assigned) == len(grid.boxes)
    assert (assigned == -1).all()


@pytest.mark.parametrize("size", [(0, 0), (30, 0), (0, 30)])
def test_an_object_without_area_gets_no_anchor_and_disturbs_none(size):
    grid = make_grid()
    flat = torch.tensor([[40.0, 40.0, 40.0 + size[0], 40.0 + size[1]]])
    others = random_boxes(4, 1)
    assigner = ATSSAssigner()
    expected = assigner(grid.boxes, grid.level_sizes, others)
    assigned = assigner(grid.boxes, grid.level_sizes, torch.cat((others, flat)))
    assert assigned.tolist() == expected.tolist()


def test_a_single_anchor_is_enough():
    grid = make_grid([(1, 1)], [8])
    boxes = torch.tensor([[-20.0, -20.0, 30.0, 30.0]])
    assert ATSSAssigner()(grid.boxes, grid.level_sizes, boxes).tolist() == [0]


def test_topk_below_one_is_refused():
    with pytest.raises(ValueError, match="topk must be at least 1, got 0"):
        ATSSAssigner(topk=0)


def test_cells_of_a_smaller_image_are_the_upper_left_ones():
    grid = make_grid()
    cells, sizes = grid.inside(64, 96)
    assert sizes == [8 * 12, 4 * 6, 2 * 3]
    expected = [
        (y * s - 4 * s, x * s - 4 * s)
        for rows, columns, s in ((8, 12, 8), (4, 6, 16), (2, 3, 32))
        for y in range(rows)
        for x in range(columns)
    ]
    corners = [(y, x) for x, y in grid.boxes[cells, :2].tolist()]
    assert corners == expected
    assert grid.strides[cells].tolist() == [8.0] * 96 + [16.0] * 24 + [32.0] * 6
