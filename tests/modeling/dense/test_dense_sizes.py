"""Published models have the counted parameters; what they leave without gradient is known."""

import pytest
import torch
from dense_models import item
from detectron2.config import LazyConfig, instantiate

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.config.loading import configs_root


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("atss_deit_adapter_small_fpn_3x_coco", 35_668_586),
        ("gfl_deit_adapter_small_fpn_3x_coco", 35_813_801),
        # Counted as the official baseline's backbone with the neck and head of the above.
        ("atss_deit_small_fpn_3x_coco", 23_448_192 + 3_246_080 + 4_918_618),
        ("gfl_deit_small_fpn_3x_coco", 23_448_192 + 3_246_080 + 5_063_833),
    ],
)
def test_published_models(name, parameters):
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(f"coco/{name}").model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("kind", ["atss", "gfl"])
def test_what_leads_to_the_finest_level_alone_gets_no_gradient(kind):
    models = configs_root() / "common" / "models"
    build = LazyConfig.load(str(models / f"{kind}.py"), kind)
    backbone = LazyConfig.load(str(models / "vit_adapter_mini.py"), "backbone")
    model = instantiate(build(backbone, num_classes=8, channels=64)).train()
    losses = model([item(64, 64, [[5, 8, 60, 50]], [3])])
    torch.stack(list(losses.values())).sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    parts = ("norms.res2", "spatial_prior.proj_res2", "up")
    assert idle == {
        f"backbone.bottom_up.{part}.{name}" for part in parts for name in ("weight", "bias")
    }
