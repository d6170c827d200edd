"""Soft-NMS as an option of Mask R-CNN and Cascade Mask R-CNN."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from htc_models import make_input

from vitadapter_d2.engine.config.loading import configs_root
from vitadapter_d2.modeling.box_predictor import SoftNMSOutputLayers

CONFIG = """
from ..common.models.{module} import {function}
from ..common.models.mask_rcnn import with_soft_nms
from ..common.models.vit_adapter_mini import backbone

model = with_soft_nms({function}(backbone, num_classes=8, channels=64, box_dim=64), 0.4, 0.02)
"""


@pytest.mark.parametrize(
    ("module", "function"), [("mask_rcnn", "mask_rcnn"), ("cascade", "cascade_mask_rcnn")]
)
def test_a_config_asks_for_soft_nms(tmp_path, module, function):
    (tmp_path / "common").symlink_to(configs_root() / "common")
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "config.py"
    file.write_text(CONFIG.format(module=module, function=function))
    model = instantiate(LazyConfig.load(str(file)).model).eval()
    predictors = model.roi_heads.box_predictor
    last = predictors[-1] if module == "cascade" else predictors
    assert isinstance(last, SoftNMSOutputLayers)
    with torch.no_grad():
        (result,) = model([make_input(64, 96)])
    found = result["instances"]
    assert len(found) > 0 and found.scores.min() >= 0.02
    assert (found.scores.diff() <= 0).all()
