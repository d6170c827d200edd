"""A tester that resizes gets images as they are in the files."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from vitadapter_d2 import Predictor
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.evaluate import loader_under_test, model_under_test
from vitadapter_d2.inference.detection import BoxView, DetectionTester


@pytest.fixture
def cfg(tiny_root):
    """ATSS; the mapper shrinks images of 96 pixels to 64."""
    cfg = load_config("shapes/atss_vit_adapter_shapes", ["train.device=cpu"])
    cfg.dataloader.test.dataset.names = "tiny_val"
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=64)]
    cfg.test = L(DetectionTester)(mode="whole", ms_views=[L(BoxView)(scale=(80, 80))])
    return cfg


@pytest.mark.parametrize(
    ("overrides", "side"),
    [({}, 64), ({"mode": "ms"}, 96), ({"scale": (48, 48)}, 96)],
)
def test_images_are_resized_once(cfg, tmp_path, overrides, side):
    cfg.test.update(overrides)
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    tester = model_under_test(cfg, model)
    (item,) = next(iter(instantiate(loader_under_test(cfg, tester))))
    assert item["image"].shape == (3, side, side)
    Checkpointer(model, str(tmp_path)).save("model")
    predictor = Predictor(cfg, tmp_path / "model.pth")
    assert predictor.prepare(np.zeros((96, 96, 3), np.uint8))["image"].shape == (3, side, side)
