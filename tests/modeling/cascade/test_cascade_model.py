"""The whole detector, as its configuration file builds it."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from vitadapter_d2 import model_zoo

SIDE = 96


def record(objects):
    """An image with squares of the colour of their class."""
    image = torch.randint(0, 64, (3, SIDE, SIDE), dtype=torch.uint8)
    classes = torch.arange(objects) % 3
    corners = torch.tensor([[8.0, 8, 40, 44], [50, 20, 90, 52], [12, 56, 44, 88]])[:objects]
    masks = torch.zeros(objects, SIDE, SIDE, dtype=torch.bool)
    for mask, (left, top, right, bottom), channel in zip(
        masks, corners.int().tolist(), classes.tolist(), strict=True
    ):
        mask[top:bottom, left:right] = True
        image[channel, top:bottom, left:right] = 255
    instances = Instances((SIDE, SIDE), gt_boxes=Boxes(corners), gt_classes=classes)
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "height": SIDE, "width": SIDE, "instances": instances}


@pytest.fixture
def model():
    cfg = model_zoo.get_config("shapes/cascade_mask_rcnn_vit_adapter_shapes").model
    return instantiate(cfg).train()


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


@pytest.mark.parametrize("objects", [(3, 0), (0, 0)])
def test_losses_of_images_without_objects_are_finite(model, objects):
    losses = losses_of(model, [record(count) for count in objects])
    assert len(losses) == 2 + 3 * 3
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_losses_in_bfloat16_agree_with_float32(model):
    batch = [record(3), record(2)]
    totals = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = losses_of(model, batch)
        totals.append(torch.stack([loss.float() for loss in losses.values()]).sum())
    torch.testing.assert_close(totals[1], totals[0], atol=0, rtol=0.02)


def test_detections_have_boxes_and_masks_of_the_image_size(model):
    for predictor in model.roi_heads.box_predictor:
        predictor.test_score_thresh = 0.0
    inputs = {"image": record(1)["image"], "height": 150, "width": 201}
    with torch.no_grad():
        (output,) = model.eval()([inputs])
    found = output["instances"]
    assert len(found) == 100
    assert found.image_size == (150, 201)
    assert found.pred_masks.shape == (100, 150, 201)
