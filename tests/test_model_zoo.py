"""Models by name, with weights from a file or as released."""

import pytest
import torch
from omegaconf import OmegaConf

from vitadapter_d2 import model_zoo
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.fetching import DownloadError
from vitadapter_d2.data.own import OwnClasses
from vitadapter_d2.data.own.classes import make_categories
from vitadapter_d2.engine.own.classes import RememberedClasses
from vitadapter_d2.engine.training.ema import ModelEma

NAME = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture
def saved(tmp_path):
    model = model_zoo.get(NAME)
    Checkpointer(model, str(tmp_path)).save("model_final")
    return model, str(tmp_path / "model_final.pth")


def zoo(monkeypatch, **entries):
    """The quick start's config with entries that it does not have."""
    cfg = model_zoo.get_config(NAME)
    cfg.zoo = OmegaConf.create(entries)
    monkeypatch.setattr(model_zoo, "load_config", lambda name: cfg)


def assert_same(model, other):
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_weights_come_from_a_file(saved):
    model, path = saved
    assert_same(model_zoo.get(NAME, path), model)


def test_averages_and_the_classes_that_the_file_remembers_are_taken(tmp_path):
    name = "shapes/mask_rcnn_vit_adapter_shapes"
    ids = {f"class {n}": n for n in range(3)}
    categories = make_categories(list(ids.values()), list(ids), [True] * 3)
    classes = RememberedClasses(OwnClasses("instances", categories))
    model = model_zoo.get(name, num_classes=3)
    ema = ModelEma(model, 0.5)
    ema.averages[0].fill_(7.0)
    Checkpointer(model, str(tmp_path), ema=ema, classes=classes).save("model_final")
    path = str(tmp_path / "model_final.pth")
    found = model_zoo.get(name, path)
    assert found.state_dict()[ema.names[0]].eq(7.0).all()
    assert found.state_dict().keys() == model.state_dict().keys()
    assert found.roi_heads.box_predictor.cls_score.out_features == 4
    other = model_zoo.get(name, path, num_classes=5)
    assert other.state_dict()[ema.names[0]].eq(7.0).all()
    assert other.roi_heads.box_predictor.cls_score.out_features == 6


def test_released_weights_are_those_of_the_config(saved, monkeypatch):
    model, path = saved
    zoo(monkeypatch, released=path, pretrained="")
    assert_same(model_zoo.get(NAME, trained=True), model)


def test_what_was_not_released_is_explained(monkeypatch):
    with pytest.raises(ValueError, match=f"the authors released no weights for {NAME}$"):
        model_zoo.get(NAME, trained=True)
    name = "coco/mask_rcnn_deit_adapter_small_fpn_1x_coco"
    with pytest.raises(ValueError, match=f"no weights for {name}; its pre-trained trunk is http"):
        model_zoo.get(name, trained=True)
    with pytest.raises(ValueError, match="got weights.pth too"):
        model_zoo.get(NAME, "weights.pth", trained=True)


def test_an_address_that_is_out_of_reach_is_explained(monkeypatch):
    zoo(monkeypatch, released="http://127.0.0.1:9/released.pth")
    with pytest.raises(DownloadError, match="released.pth cannot be downloaded"):
        model_zoo.get(NAME, trained=True)


@pytest.mark.parametrize("size", ["deit_adapter_tiny", "deit_adapter_base", "augreg_adapter_large"])
def test_published_configs_start_from_the_published_trunk(size):
    cfg = model_zoo.get_config(f"coco/mask_rcnn_{size}_fpn_1x_coco")
    assert cfg.train.init_checkpoint == cfg.zoo.pretrained
    assert cfg.zoo.pretrained.startswith("https://") and cfg.zoo.pretrained.endswith(".pth")
    assert set(cfg.zoo.metrics) == {"box_AP", "mask_AP"}
    assert "released" in cfg.zoo


def test_a_model_of_other_classes_keeps_the_rest(saved):
    model, path = saved
    other = model_zoo.get(NAME, path, num_classes=3)
    assert other.sem_seg_head.predictor.class_embed.out_features == 4
    fresh = {name for name in other.state_dict() if "class_embed" in name}
    for name, tensor in other.state_dict().items():
        if name not in fresh and "criterion" not in name:
            assert torch.equal(tensor, model.state_dict()[name]), name
