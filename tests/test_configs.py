"""Every published configuration is complete and builds."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from parameter_counts import EXCEPTIONS, OFFICIAL, OTHERS, PARAMETERS
from torch import nn

from vitadapter_d2 import model_zoo

# As published, with the average of the weights over time in place of a falling rate.
CONSTANT_RATE = {"coco/htcpp_beitv2_adapter_large_fpn_o365_coco"}


@dataclass(frozen=True)
class Built:
    """A configuration, the folder it was saved in, and the model of what was saved."""

    name: str
    cfg: DictConfig
    saved: Path
    model: nn.Module


@pytest.fixture(scope="module", params=model_zoo.names())
def built(request, tmp_path_factory):
    cfg = model_zoo.get_config(request.param)
    folder = tmp_path_factory.mktemp("config")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    saved = LazyConfig.load(str(folder / "config.yaml"))
    with torch.device("meta"):
        return Built(request.param, cfg, folder, instantiate(saved.model))


def test_config_is_complete_and_survives_saving(built):
    for key in ("train", "test", "evaluator"):
        assert key in built.cfg.dataloader
    assert built.cfg.train.max_iter > 0
    assert not list(built.saved.glob("*.pkl")), "the config holds what yaml cannot say"


def test_model_has_the_counted_parameters(built):
    count = sum(parameter.numel() for parameter in built.model.parameters())
    assert count == PARAMETERS.get(built.name, count) > 0


def test_optimizer_covers_every_trained_parameter_once(built):
    built.cfg.optimizer.params.model = built.model
    groups = instantiate(built.cfg.optimizer).param_groups
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(p) for p in built.model.parameters() if p.requires_grad]
    assert sorted(optimized) == sorted(trained)


def test_schedule_ends_at_a_tenth_of_its_peak_or_less(built):
    schedule = instantiate(built.cfg.lr_multiplier)
    assert max(schedule(step / 100) for step in range(100)) > 0.8  # a long warm-up takes some
    assert schedule(0.999) < 0.101 or built.name in CONSTANT_RATE


def test_parameters_of_all_configs_are_known():
    published = {name for name in model_zoo.names() if not name.startswith("shapes/")}
    assert set(PARAMETERS) == published
    assert not set(OFFICIAL) & set(OTHERS)


@pytest.mark.parametrize("name", [name for name, (_, printed) in OTHERS.items() if printed])
def test_parameters_round_to_the_printed_ones_or_it_is_known_why_not(name):
    count, printed = OTHERS[name]
    decimals = len(printed.partition(".")[2])
    assert (f"{count / 1e6:.{decimals}f}" == printed) != (name in EXCEPTIONS)


def test_unknown_names_name_the_nearest():
    with pytest.raises(FileNotFoundError, match="coco/mask_rcnn_deit_adapter_small_fpn_1x_coco"):
        model_zoo.get_config("coco/mask_rcnn_deit_adapter_smal_fpn_1x_coco")
