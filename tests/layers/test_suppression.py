import pytest
import torch

from vitadapter_d2.layers.soft_nms import soft_nms
from vitadapter_d2.layers.suppression import NMS, SoftNMS

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [20.0, 0.0, 30.0, 10.0]])
SCORES = torch.tensor([0.6, 0.9, 0.7])


def test_nms_drops_what_a_better_box_of_the_class_covers():
    kept = NMS(0.5)(BOXES, SCORES, torch.zeros(3, dtype=torch.int64))
    assert kept.indices.tolist() == [1, 2]
    assert torch.equal(kept.scores, SCORES[[1, 2]])
    of_other_class = NMS(0.5)(BOXES, SCORES, torch.tensor([1, 0, 0]))
    assert of_other_class.indices.tolist() == [1, 2, 0]
    assert NMS(0.81)(BOXES, SCORES, torch.zeros(3)).indices.tolist() == [1, 2, 0]
    assert NMS(0.81)(BOXES, SCORES, torch.zeros(3), max_boxes=1).indices.tolist() == [1]


def test_nms_works_in_low_precision():
    kept = NMS(0.5)(BOXES, SCORES.bfloat16(), torch.zeros(3, dtype=torch.int64))
    assert kept.indices.tolist() == [1, 2]


def test_soft_nms_is_the_function():
    classes = torch.zeros(3, dtype=torch.int64)
    kept = SoftNMS(0.4, 0.2)(BOXES, SCORES, classes, max_boxes=2)
    expected = soft_nms(BOXES, SCORES, classes, iou_threshold=0.4, min_score=0.2, max_boxes=2)
    assert torch.equal(kept.indices, expected.indices)
    assert torch.equal(kept.scores, expected.scores)


@pytest.mark.parametrize("suppression", [NMS(), SoftNMS()])
def test_nothing_gives_nothing(suppression):
    kept = suppression(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 10)
    assert len(kept.indices) == len(kept.scores) == 0


def test_wrong_overlaps_are_refused():
    with pytest.raises(ValueError, match=r"iou_threshold must be in \[0, 1\], got 1.5"):
        NMS(1.5)
