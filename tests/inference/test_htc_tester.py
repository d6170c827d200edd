"""HTC++ at one size and at many; the model is that of the modelling tests."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Instances
from htc_models import make_input, make_model
from torch import nn

from vitadapter_d2.inference.htc import BoxView, HTCTester

OBJECTS = ((4, 6, 30, 40), (34, 20, 60, 56))


def item(height=48, width=64, **extra):
    return {"image": make_input(height, width, OBJECTS)["image"], **extra}


def test_one_size_is_the_model_on_the_resized_image():
    model = make_model().eval()
    image = torch.full((3, 48, 64), 90, dtype=torch.uint8)  # one colour: no interpolation
    tester = HTCTester(model, scale=(96, 96))
    (result,) = tester([{"image": image, "height": 24, "width": 32}])
    large = torch.full((3, 72, 96), 90, dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model([{"image": large, "height": 24, "width": 32}])
    assert result["instances"].image_size == (24, 32)
    boxes = expected["instances"].pred_boxes.tensor
    torch.testing.assert_close(result["instances"].pred_boxes.tensor, boxes)
    assert len(boxes) > 0


def test_many_views_give_detectron2s_format_at_the_output_size():
    views = [BoxView((96, 64), "sm"), BoxView((64, 32), "ml")]
    tester = HTCTester(make_model().eval(), "ms", scale=(64, 64), ms_views=views, ms_max_boxes=30)
    (result,) = tester([item(height=100, width=128)])
    found = result["instances"]
    assert found.image_size == (100, 128) and 20 < len(found) <= 30
    assert found.pred_masks.shape == (len(found), 100, 128)
    assert (found.scores.diff() <= 0).all()


class Known(nn.Module):
    """ROI heads that see a fixed object, wherever the view shows it, and mark the left half."""

    def __init__(self, boxes, size):
        super().__init__()
        self.boxes, self.size, self.views = boxes, size, []
        self.box_predictor = [SimpleNamespace(test_score_thresh=0.001, test_nms_thresh=0.5)]

    def with_context(self, features):
        return {**features, "number": len(self.views)}

    def score_boxes(self, features, proposals):
        height, width = proposals[0].image_size
        is_flipped = len(self.views) % 2 == 1
        factors = torch.tensor([width / self.size[1], height / self.size[0]] * 2)
        boxes = self.boxes * factors
        if is_flipped:
            boxes = torch.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1
            )
        self.views.append((boxes, is_flipped))
        scores = torch.tensor([[0.8, 0.0, 0.0, 0.2], [0.0, 0.6, 0.0, 0.4], [0.0, 0.0, 0.5, 0.5]])
        if len(self.views) > 2:  # the second size, which is sure of the large object as well
            scores[0, 0] = 0.95
        return [(boxes, scores)]

    def stage_masks(self, features, boxes, classes):
        seen, is_flipped = self.views[features["number"]]
        torch.testing.assert_close(boxes[0].tensor, seen[classes])
        mask = torch.zeros(3, len(classes), 1, 4, 4)
        mask[..., 2:] = 1
        return mask.flip(-1) if not is_flipped else mask  # the left half of the object


def test_views_are_mapped_back_filtered_by_size_and_their_masks_turned_back(monkeypatch):
    boxes = torch.tensor([[10.0, 20.0, 130.0, 140.0], [50.0, 60.0, 100.0, 120.0], [1, 1, 21, 21]])
    size = (150, 200)
    model = make_model().eval()
    heads = Known(boxes, size)
    views = [BoxView((300, 100), "l"), BoxView((400, 300), "sm")]
    tester = HTCTester(model, "ms", scale=(64, 64), ms_views=views)
    model.roi_heads = heads
    monkeypatch.setattr(
        model.proposal_generator,
        "forward",
        lambda images, features, targets: ([Instances(images.image_sizes[0])], {}),
    )
    (result,) = tester([{"image": torch.zeros(3, *size, dtype=torch.uint8)}])
    found = result["instances"]
    # Each object comes from one size and its mirror, whose second box Soft-NMS takes away.
    assert found.pred_classes[:3].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.scores[:3], torch.tensor([0.8, 0.6, 0.5]))
    torch.testing.assert_close(found.pred_boxes.tensor[:3], boxes, atol=1e-3, rtol=0)
    large = found.pred_masks[0]
    assert large[25:135, 15:65].float().mean() > 0.95
    assert large[25:135, 75:125].float().mean() < 0.05


def test_an_image_without_boxes_of_the_right_size_has_empty_fields():
    tester = HTCTester(make_model().eval(), "ms", scale=(64, 64), ms_views=[BoxView((64, 64), "l")])
    (result,) = tester([item()])  # no box of 48 x 64 pixels is large
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, 48, 64)


def test_wrong_settings_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match="mode must be one of"):
        HTCTester(model, "slide", scale=(64, 64))
    with pytest.raises(ValueError, match="needs ms_views"):
        HTCTester(model, "ms", scale=(64, 64))
    with pytest.raises(ValueError, match="areas must be some of sml, got 'xl'"):
        BoxView((64, 64), "xl")
