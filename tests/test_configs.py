"""Every published configuration is complete and builds."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from vitadapter_d2 import model_zoo

# Counted from the official configurations.
PARAMETERS = {
    "coco/mask_rcnn_deit_adapter_tiny_fpn_1x_coco": 28_068_512,
    "coco/mask_rcnn_deit_adapter_small_fpn_1x_coco": 47_802_368,
    "coco/mask_rcnn_deit_adapter_base_fpn_1x_coco": 120_187_088,
    "coco/mask_rcnn_augreg_adapter_large_fpn_1x_coco": 347_927_472,
}


def test_counted_configs_exist():
    assert set(PARAMETERS) <= set(model_zoo.names())


@pytest.fixture(scope="module", params=model_zoo.names())
def named_model(request):
    cfg = model_zoo.get_config(request.param)
    with torch.device("meta"):
        return request.param, cfg, instantiate(cfg.model)


def test_model_builds_with_the_counted_parameters(named_model):
    name, _, model = named_model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PARAMETERS.get(name, count) > 0


def test_optimizer_covers_every_parameter_once(named_model):
    _, cfg, model = named_model
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(optimized) == sorted(id(parameter) for parameter in model.parameters())


def test_schedule_ends_far_below_its_peak(named_model):
    _, cfg, _ = named_model
    schedule = instantiate(cfg.lr_multiplier)
    assert max(schedule(step / 100) for step in range(100)) > 0.9
    assert schedule(0.999) < 0.05


@pytest.mark.parametrize("name", model_zoo.names())
def test_config_is_complete_and_survives_saving(name, tmp_path):
    cfg = model_zoo.get_config(name)
    for key in ("train", "test", "evaluator"):
        assert key in cfg.dataloader
    assert cfg.train.max_iter > 0
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert not list(tmp_path.glob("*.pkl")), "the config holds what yaml cannot say"
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        instantiate(saved.model)


def test_unknown_names_list_the_zoo():
    with pytest.raises(FileNotFoundError, match="shapes/mask2former_vit_adapter_quickstart"):
        model_zoo.get_config("coco/no_such_model")
