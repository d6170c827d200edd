"""The anchors that the published detectors' RPN is trained with, against a loop over anchors."""

import math

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, pairwise_iou

from vitadapter_d2 import model_zoo
from vitadapter_d2.modeling.rpn import ValidAnchorRPN

STRIDES = (4, 8, 16, 32, 64)
BATCH = (160, 224)
SIZES = [BATCH, (75, 130)]  # of two images in one batch
OBJECTS = torch.tensor(
    [[0.0, 0, 60, 40], [80, 50, 100, 62], [2, 4, 127, 70], [90, 30, 130, 75], [50, 50, 54, 53]]
)


def published_rpn(name):
    rpn = instantiate(model_zoo.get_config(f"coco/{name}").model.proposal_generator)
    rpn._subsample_labels = lambda labels: labels
    return rpn


def looped(anchors, image_size, border):
    """Object of each anchor; -1 background, -2 not used. Anchor by anchor, as mmdetection."""
    padded = [math.ceil(side / 32) * 32 for side in image_size]
    valid = []
    for level, stride in zip(anchors, STRIDES, strict=True):
        columns = math.ceil(BATCH[1] / stride)
        for index, (x0, y0, x1, y1) in enumerate(level.tensor.tolist()):
            row, column = divmod(index // 3, columns)
            is_valid = row < math.ceil(padded[0] / stride) and column < math.ceil(
                padded[1] / stride
            )
            if border >= 0:
                is_inside = x0 >= -border and y0 >= -border
                is_inside &= x1 < image_size[1] + border and y1 < image_size[0] + border
                is_valid &= is_inside
            valid.append(is_valid)
    places = [place for place, is_valid in enumerate(valid) if is_valid]
    overlaps = pairwise_iou(Boxes(OBJECTS), Boxes.cat(anchors))[:, places]
    owners = [-2] * len(valid)
    for place, box in zip(places, overlaps.T.tolist(), strict=True):
        best = max(box)
        owners[place] = box.index(best) if best >= 0.7 else -1 if best < 0.3 else -2
    for index, row in enumerate(overlaps.tolist()):
        if max(row) >= 0.3:
            for place, overlap in zip(places, row, strict=True):
                owners[place] = index if overlap == max(row) else owners[place]
    return owners


@pytest.mark.parametrize(
    ("name", "border"),
    [
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", -1),
        ("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco", 0),
        ("htcpp_beit_adapter_large_fpn_3x_coco", 0),
    ],
)
def test_anchors_go_to_the_objects_of_a_loop(name, border):
    rpn = published_rpn(name)
    features = [torch.zeros(2, 1, -(-BATCH[0] // s), -(-BATCH[1] // s)) for s in STRIDES]
    anchors = rpn.anchor_generator(features)
    images = [Instances(size, gt_boxes=Boxes(OBJECTS)) for size in SIZES]
    labels, boxes = rpn.label_and_sample_anchors(anchors, images)
    for label, matched, size in zip(labels, boxes, SIZES, strict=True):
        expected = torch.tensor(looped(anchors, size, border))
        is_object = expected >= 0
        assert label.tolist() == torch.where(is_object, 1, -1).where(expected != -1, 0).tolist()
        torch.testing.assert_close(matched[is_object], OBJECTS[expected[is_object]])
        assert is_object.sum() > 3 and (expected == -2).any()


def test_images_without_objects_or_without_valid_anchors_are_trained():
    rpn = published_rpn("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco")
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 32 // s or 1, 32 // s or 1) for s in STRIDES])
    nothing = Instances((32, 32), gt_boxes=Boxes(torch.zeros(0, 4)))
    narrow = Instances((32, 3), gt_boxes=Boxes(torch.tensor([[0.0, 0, 3, 30]])))
    labels, _ = rpn.label_and_sample_anchors(anchors, [nothing, narrow])
    assert set(labels[0].tolist()) <= {0, -1}
    assert set(labels[1].tolist()) == {-1}


def test_images_padded_alike_use_all_cells():
    rpn = published_rpn("mask_rcnn_deit_adapter_small_fpn_3x_coco")
    rpn.pad_multiple = None
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 128 // s, 128 // s) for s in STRIDES])
    (labels,), _ = rpn.label_and_sample_anchors(
        anchors, [Instances((20, 20), gt_boxes=Boxes(torch.zeros(0, 4)))]
    )
    assert not labels.any()


def test_a_multiple_of_nothing_is_refused():
    with pytest.raises(ValueError, match="pad_multiple must be at least 1 or None, got 0"):
        ValidAnchorRPN(pad_multiple=0)
