import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from vitadapter_d2.inference.drawing import (
    draw_annotation,
    draw_prediction,
    side_by_side,
    stack,
)

METADATA = Metadata(
    name="drawing",
    thing_classes=["disc"],
    thing_colors=[(250, 0, 0)],
    stuff_classes=["disc", "ground"],
    stuff_colors=[(250, 0, 0), (0, 0, 250)],
)
IMAGE = np.full((40, 60, 3), 128, np.uint8)


def instances(score):
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    return Instances(
        (40, 60),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]])),
        scores=torch.tensor([score]),
        pred_classes=torch.tensor([0]),
    )


def test_small_images_are_enlarged():
    drawn = draw_prediction(IMAGE, {"instances": instances(0.9)}, METADATA)
    assert drawn.shape == (400, 600, 3)
    assert drawn.dtype == np.uint8


def test_instances_below_the_threshold_are_left_out():
    shown = draw_prediction(IMAGE, {"instances": instances(0.9)}, METADATA, threshold=0.5)
    hidden = draw_prediction(IMAGE, {"instances": instances(0.4)}, METADATA, threshold=0.5)
    assert np.abs(hidden.astype(int) - 128).max() <= 1
    assert np.abs(shown.astype(int) - 128).max() > 50


def test_frames_keep_their_size():
    drawn = draw_prediction(IMAGE, {"instances": instances(0.9)}, METADATA, is_enlarged=False)
    assert drawn.shape == IMAGE.shape


def test_alpha_weighs_the_colours():
    outputs = {"sem_seg": torch.tensor([0.0, 1.0])[:, None, None].expand(2, 40, 60)}
    invisible = draw_prediction(IMAGE, outputs, METADATA, alpha=0.0)
    opaque = draw_prediction(IMAGE, outputs, METADATA, alpha=1.0)
    assert (invisible[50, 50] == 128).all()
    assert tuple(opaque[50, 50]) == METADATA.stuff_colors[1]


def test_names_and_scores_are_not_needed():
    nameless = Metadata(name="nameless")
    infos = [{"id": 1, "isthing": True, "category_id": 3}]
    infos += [{"id": 2, "isthing": False, "category_id": 5}]
    ids = torch.ones(40, 60, dtype=torch.int32)
    ids[:, 30:] = 2
    for outputs in (
        {"panoptic_seg": (ids, infos)},
        {"instances": instances(0.9)},
        {"sem_seg": torch.rand(3, 40, 60)},
    ):
        drawn = draw_prediction(IMAGE, outputs, nameless)
        assert np.abs(drawn.astype(int) - 128).max() > 50


def test_boxes_are_drawn_without_masks():
    boxes = instances(0.9)
    boxes.remove("pred_masks")
    drawn = draw_prediction(IMAGE, {"instances": boxes}, METADATA)
    assert drawn[299, 200, 0] > 150  # lower side of the box
    assert (drawn[250, 200] == 128).all()  # inside of it


def test_panoptic_goes_before_the_other_outputs():
    segments = torch.ones(40, 60, dtype=torch.int32)
    infos = [{"id": 1, "isthing": False, "category_id": 1}]
    outputs = {"panoptic_seg": (segments, infos), "instances": instances(0.9)}
    drawn = draw_prediction(IMAGE, outputs, METADATA).astype(int)
    assert (drawn[..., 2] - drawn[..., 0]).mean() > 50  # blue all over


def test_semantic_scores_are_drawn_by_their_largest_class():
    scores = torch.zeros(2, 40, 60)
    scores[0, :, :30], scores[1, :, 30:] = 1.0, 1.0
    drawn = draw_prediction(IMAGE, {"sem_seg": scores}, METADATA).astype(int)
    red_minus_blue = drawn[..., 0] - drawn[..., 2]
    assert red_minus_blue[:, :280].mean() > 50 > -50 > red_minus_blue[:, 320:].mean()


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match=r"nothing to draw in a prediction with \['proposals'\]"):
        draw_prediction(IMAGE, {"proposals": None}, METADATA)


def test_pictures_join_with_white_between():
    left, right = np.zeros((4, 3, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)
    joined = side_by_side([left, right], gap=2)
    assert joined.shape == (4, 3 + 2 + 2, 3)
    assert joined[:, 3:5].min() == 255
    assert stack([joined, left], gap=1).shape == (9, 7, 3)


def test_names_with_dollars_are_no_formulas():
    metadata = Metadata(name="dollars", thing_classes=[r"$\frac$"])
    annotation = {"bbox": [10, 10, 20, 20], "bbox_mode": 1, "category_id": 0}
    record = {"annotations": [annotation]}
    assert draw_annotation(IMAGE, record, metadata).shape == (400, 600, 3)
