"""Detectors at one size and at many; small models, or ones that know what they see."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from htc_models import make_input, make_model
from torch import nn

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.evaluate import model_under_test
from vitadapter_d2.inference.detection import BoxView, DetectionTester
from vitadapter_d2.inference.detection_views import FinishedView
from vitadapter_d2.layers.suppression import NMS, SoftNMS

OBJECTS = ((4, 6, 30, 40), (34, 20, 60, 56))


def item(height=48, width=64, **extra):
    return {"image": make_input(height, width, OBJECTS)["image"], **extra}


def build(name):
    cfg = model_zoo.get_config(f"shapes/{name}_vit_adapter_shapes")
    return instantiate(cfg.model).eval()


def test_one_size_is_the_model_on_the_resized_image():
    model = make_model().eval()
    image = torch.full((3, 48, 64), 90, dtype=torch.uint8)  # one colour: no interpolation
    tester = DetectionTester(model, scale=(96, 96))
    (result,) = tester([{"image": image, "height": 24, "width": 32}])
    large = torch.full((3, 72, 96), 90, dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model([{"image": large, "height": 24, "width": 32}])
    assert result["instances"].image_size == (24, 32)
    boxes = expected["instances"].pred_boxes.tensor
    torch.testing.assert_close(result["instances"].pred_boxes.tensor, boxes)
    assert len(boxes) > 0


def test_without_a_size_the_model_gets_the_batch_as_it_is():
    given = []

    class Model(nn.Module):
        def forward(self, batch):
            given.extend(batch)
            return [{"instances": index} for index in range(len(batch))]

    batch = [item(height=10, width=20), item()]
    assert DetectionTester(Model())(batch) == [{"instances": 0}, {"instances": 1}]
    assert given == batch


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn", "htcpp"])
def test_models_with_roi_heads_give_masks_at_the_output_size(name):
    model = build(name)
    views = [BoxView((96, 64)), BoxView((64, 32))]
    tester = DetectionTester(model, "ms", ms_views=views, ms_max_boxes=30)
    (result,) = tester([item(height=100, width=128)])
    found = result["instances"]
    assert found.image_size == (100, 128) and 0 < len(found) <= 30
    assert found.pred_masks.shape == (len(found), 100, 128)
    assert found.pred_masks.dtype == torch.bool
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", ["atss", "gfl", "sparse_rcnn", "dino"])
@pytest.mark.parametrize("merge", [NMS(0.5), SoftNMS(0.5, 0.001)])
def test_models_without_give_boxes_at_the_output_size(name, merge):
    model = build(name)
    if hasattr(model, "test_score_thresh"):
        model.test_score_thresh = 0.001
    views = [BoxView((96, 64)), BoxView((64, 32))]
    tester = DetectionTester(model, "ms", ms_views=views, ms_merge=merge, ms_max_boxes=30)
    (result,) = tester([item(height=100, width=128)])
    found = result["instances"]
    assert found.image_size == (100, 128) and 0 < len(found) <= 30
    assert not found.has("pred_masks")
    assert (found.scores.diff() <= 0).all()
    boxes = found.pred_boxes.tensor
    if name != "sparse_rcnn":  # which does not clip them
        assert (boxes >= 0).all() and (boxes <= torch.tensor([128, 100, 128, 100])).all()


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_one_view_of_the_image_itself_is_the_model(name):
    model = build(name)
    views = [BoxView((64, 48))]
    tester = DetectionTester(model, "ms", ms_views=views, ms_flip=False)
    inputs = [item()]
    with torch.no_grad():
        (expected,) = model(inputs)
    (result,) = tester(inputs)
    for field in ("scores", "pred_classes", "pred_masks"):
        torch.testing.assert_close(
            result["instances"].get(field), expected["instances"].get(field), msg=field
        )
    boxes = expected["instances"].pred_boxes.tensor
    torch.testing.assert_close(result["instances"].pred_boxes.tensor, boxes)
    assert len(boxes) > 0


SIZE = (150, 200)
KNOWN = torch.tensor([[10.0, 20.0, 130.0, 140.0], [50.0, 60.0, 100.0, 120.0], [1, 1, 21, 21]])


def shown(size, is_flipped):
    """The known objects where a view shows them."""
    height, width = size
    boxes = KNOWN * torch.tensor([width / SIZE[1], height / SIZE[0]] * 2)
    if not is_flipped:
        return boxes
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def is_mirrored(image):
    return bool(image[0, 0, 0] < image[0, 0, -1])


def image_brighter_at_the_left():
    return torch.linspace(200, 20, SIZE[1]).to(torch.uint8).expand(3, *SIZE).contiguous()


@pytest.fixture
def knowing_htc(monkeypatch):
    """Its ROI heads see the known objects and mark their left halves; one view exaggerates."""
    model = make_model().eval()
    heads, seen = model.roi_heads, []

    def find(images, features, targets):
        size = tuple(images.image_sizes[0])
        seen.append((shown(size, is_mirrored(images.tensor[0])), is_mirrored(images.tensor[0])))
        return [Instances(size)], {}

    def score_boxes(features, proposals):
        scores = torch.tensor([[0.8, 0.0, 0.0, 0.2], [0.0, 0.6, 0.0, 0.4], [0.0, 0.0, 0.5, 0.5]])
        if len(seen) > 2:  # the second size, which is sure of the large object as well
            scores[0, 0] = 0.95
        return [(seen[-1][0], scores)]

    def stage_masks(features, boxes, classes):
        expected, is_flipped = seen[features["number"]]
        torch.testing.assert_close(boxes[0].tensor, expected[classes])
        mask = torch.zeros(3, len(classes), 1, 4, 4)
        mask[..., 2:] = 1
        if features["number"] == 0:
            mask[:] = 1
        return mask if is_flipped else mask.flip(-1)  # the left half of the object

    def with_context(features):
        return {"number": len(seen) - 1, **features}

    monkeypatch.setattr(model.proposal_generator, "forward", find)
    monkeypatch.setattr(heads, "with_context", with_context)
    monkeypatch.setattr(heads, "score_boxes", score_boxes)
    monkeypatch.setattr(heads, "stage_masks", stage_masks)
    return model


def check_known(found, scores):
    assert found.pred_classes[:3].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.scores[:3], torch.tensor(scores))
    torch.testing.assert_close(found.pred_boxes.tensor[:3], KNOWN, atol=1e-3, rtol=0)
    large = found.pred_masks[0]
    assert large[25:135, 15:65].float().mean() > 0.95
    assert large[25:135, 75:125].float().mean() < 0.05


def test_views_are_mapped_back_filtered_by_size_and_their_masks_turned_back(knowing_htc):
    views = [BoxView((300, 100), "l"), BoxView((400, 300), "sm")]
    tester = DetectionTester(knowing_htc, "ms", ms_views=views, ms_merge=SoftNMS())
    (result,) = tester([{"image": image_brighter_at_the_left()}])
    # Each object comes from one size and its mirror, whose second box Soft-NMS takes away.
    check_known(result["instances"], [0.8, 0.6, 0.5])


class Knowing(nn.Module):
    """Sees the known objects and marks their left halves; one view misses, one exaggerates."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def forward(self, batch):
        ((image, height, width),) = [(i["image"], i["height"], i["width"]) for i in batch]
        is_flipped = is_mirrored(image)
        found = Instances((height, width))
        boxes = shown(SIZE, is_flipped)
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            left, top, right, bottom = box
            middle = (left + right) // 2
            mask[top:bottom, slice(middle, right) if is_flipped else slice(left, middle)] = True
        if self.number == 2:
            masks[:] = True
        found.pred_boxes, found.pred_classes = Boxes(boxes), torch.arange(3)
        found.scores = torch.tensor([0.8, 0.6, 0.5]) - 0.01 * self.number
        found.pred_masks = masks
        self.number += 1
        return [{"instances": found[:0] if self.number == 1 else found}]


def test_masks_of_detections_are_averaged_over_the_views_that_have_them():
    views = [BoxView((300, 100)), BoxView((400, 300))]
    tester = DetectionTester(Knowing(), "ms", ms_views=views)
    (result,) = tester([{"image": image_brighter_at_the_left()}])
    assert len(result["instances"]) == 3
    check_known(result["instances"], [0.79, 0.59, 0.49])


def test_only_detections_of_the_class_that_overlap_half_vote():
    frame = (100, 100)
    found = Instances(frame, pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 4], [0, 0, 10, 9]])))
    found.pred_classes, found.scores = torch.tensor([0, 1]), torch.tensor([0.3, 0.2])
    view = FinishedView(found, None)
    merged = Instances(frame, pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]] * 2)))
    merged.pred_classes = torch.tensor([0, 1])
    places, scores = view.partners(merged)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.2]))
    assert places[1] == 1


def test_what_a_view_is_not_asked_for_is_not_taken_from_it():
    model = Knowing()
    model.number = 1
    tester = DetectionTester(model, "ms", ms_views=[BoxView((300, 100), "s")], ms_flip=False)
    (result,) = tester([{"image": image_brighter_at_the_left()}])
    assert result["instances"].pred_classes.tolist() == [2]


def test_an_image_without_boxes_of_the_right_size_has_empty_fields():
    views = [BoxView((64, 64), "l")]
    (result,) = DetectionTester(make_model().eval(), "ms", ms_views=views)([item()])
    assert len(result["instances"]) == 0  # no box of 48 x 64 pixels is large
    assert result["instances"].pred_masks.shape == (0, 48, 64)


def test_an_image_without_detections_has_empty_fields():
    views = [BoxView((300, 100))]  # the first sees nothing
    tester = DetectionTester(Knowing(), "ms", ms_views=views, ms_flip=False)
    (result,) = tester([{"image": image_brighter_at_the_left()}])
    assert len(result["instances"]) == 0
    assert result["instances"].pred_masks.shape == (0, *SIZE)


def test_wrong_settings_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match="mode must be one of"):
        DetectionTester(model, "slide")
    with pytest.raises(ValueError, match="needs ms_views"):
        DetectionTester(model, "ms")
    with pytest.raises(ValueError, match="areas must be some of sml, got 'xl'"):
        BoxView((64, 64), "xl")
    with pytest.raises(ValueError, match=r"must be \(3, H, W\), not empty, got \(1, 4, 4\)"):
        DetectionTester(model, scale=(64, 64))([{"image": torch.zeros(1, 4, 4)}])


@pytest.mark.parametrize(
    "name", ["mask_rcnn_deit_adapter_small_fpn_3x_coco", "gfl_deit_adapter_small_fpn_3x_coco"]
)
def test_published_configs_are_tested_at_one_size_and_offer_many(name):
    cfg = model_zoo.get_config(f"coco/{name}")
    model = nn.Identity()
    tester = model_under_test(cfg, model)
    assert tester.mode == "whole" and tester.rule is None
    cfg.test.mode = "ms"
    tester = model_under_test(cfg, model)
    assert [min(view.scale) for view in tester.views] == [400, 600, 800, 1000, 1200]
    assert tester.views[2].scale[0] == 1333 and tester.flips == (False, True)
    assert tester.merge == NMS(0.6 if name.startswith("gfl") else 0.5)
