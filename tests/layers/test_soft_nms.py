import pytest
import torch
from torchvision.ops import box_iou

from vitadapter_d2.layers.soft_nms import soft_nms


def reference(boxes, scores, classes, iou_threshold, min_score):
    """One box after the other, each class alone, in float64."""
    found = []
    for number in classes.unique():
        own = (classes == number).nonzero()[:, 0].tolist()
        overlaps = box_iou(boxes[own].double(), boxes[own].double())
        left = {i: float(scores[index]) for i, index in enumerate(own)}
        while left:
            best = max(left, key=left.get)
            score = left.pop(best)
            if score >= min_score:
                found.append((score, own[best]))
            for other in left:
                overlap = overlaps[best, other].item()
                left[other] *= 1 - overlap if overlap >= iou_threshold else 1
    return sorted(found, reverse=True)


def random_boxes(count, num_classes=3):
    corners = torch.rand(count, 2) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2) * 30], dim=1)
    return boxes, torch.rand(count), torch.randint(0, num_classes, (count,))


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5])
def test_boxes_and_scores_are_those_of_a_loop_over_classes(iou_threshold):
    boxes, scores, classes = random_boxes(80)
    result = soft_nms(boxes, scores, classes, iou_threshold=iou_threshold, min_score=0.05)
    expected = reference(boxes, scores, classes, iou_threshold, 0.05)
    assert len(expected) < 80
    assert result.indices.tolist() == [index for _, index in expected]
    torch.testing.assert_close(result.scores, torch.tensor([score for score, _ in expected]))


def test_a_limit_takes_the_best_of_all():
    boxes, scores, classes = random_boxes(60)
    everything = soft_nms(boxes, scores, classes, min_score=0.0)
    assert len(everything.indices) == 60
    for limit in (0, 7, 200):
        best = soft_nms(boxes, scores, classes, min_score=0.0, max_boxes=limit)
        assert torch.equal(best.indices, everything.indices[:limit])
        assert torch.equal(best.scores, everything.scores[:limit])


def test_the_threshold_itself_lowers_the_score():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]])  # IoU 0.5
    scores, classes = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert soft_nms(boxes, scores, classes).scores.tolist() == pytest.approx([0.9, 0.4])
    above = soft_nms(boxes, scores, classes, iou_threshold=0.51)
    assert above.scores.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_of_other_classes_and_without_area_stay():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [3, 3, 3, 3], [3, 3, 3, 3]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 0, 0])
    result = soft_nms(boxes, scores, classes)
    assert result.indices.tolist() == [0, 1, 2, 3]
    assert torch.equal(result.scores, scores)


def test_no_boxes_give_no_boxes():
    result = soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert result.indices.shape == result.scores.shape == (0,)
    assert result.indices.dtype == torch.int64


def test_wrong_limits_are_refused():
    boxes, scores, classes = random_boxes(2)
    with pytest.raises(ValueError, match=r"iou_threshold must be in \[0, 1\], got 1.5"):
        soft_nms(boxes, scores, classes, iou_threshold=1.5)
    with pytest.raises(ValueError, match="max_boxes must not be negative, got -1"):
        soft_nms(boxes, scores, classes, max_boxes=-1)
