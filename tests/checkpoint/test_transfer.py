"""A ViT-Adapter goes from one kind of model into another."""

import torch
from detectron2.config import instantiate
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.transfer import move_adapter
from vitadapter_d2.engine.config.loading import load_config

PANOPTIC = "shapes/mask2former_vit_adapter_quickstart"
BOXES = "shapes/mask_rcnn_vit_adapter_shapes"


def model_of(name: str) -> nn.Module:
    return instantiate(load_config(name).model)


def randomized(model: nn.Module) -> nn.Module:
    for part in [*model.parameters(), *model.buffers()]:
        if part.is_floating_point():
            nn.init.normal_(part)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(value, others[key]) for key, value in first.state_dict().items())


def test_a_detector_starts_from_a_panoptic_model_and_back(tmp_path):
    panoptic, boxes = randomized(model_of(PANOPTIC)), model_of(BOXES)
    Checkpointer(panoptic, str(tmp_path)).save("panoptic")
    Checkpointer(boxes).load(str(tmp_path / "panoptic.pth"))
    assert same(panoptic.backbone, boxes.backbone.bottom_up)

    other = model_of(PANOPTIC)
    Checkpointer(randomized(boxes), str(tmp_path)).save("boxes")
    Checkpointer(other).load(str(tmp_path / "boxes.pth"))
    assert same(boxes.backbone.bottom_up, other.backbone)


def test_names_that_fit_stay():
    model = model_of(PANOPTIC)
    state_dict = model.state_dict()
    assert move_adapter(state_dict, model).keys() == state_dict.keys()


def test_without_one_adapter_each_nothing_moves():
    state_dict = model_of(PANOPTIC).state_dict()
    assert move_adapter(state_dict, nn.Linear(1, 1)).keys() == state_dict.keys()
    two = {f"{place}.spatial_prior.x": torch.zeros(1) for place in ("teacher", "student")}
    assert move_adapter(two, model_of(BOXES)).keys() == two.keys()
