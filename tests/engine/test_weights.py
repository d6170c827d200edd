import pytest
import torch
from detectron2.config import instantiate

from vitadapter_d2.engine.config import load_config
from vitadapter_d2.engine.weights import load_trained, trained_weights


def test_what_training_starts_from_is_no_trained_model():
    cfg = load_config("ade20k/mask2former_beit_adapter_large_896_80k_ade20k")
    for start in (cfg.zoo.pretrained, cfg.zoo.load_from, None):
        with pytest.raises(ValueError, match=r"starts from; the authors released https://.*\.zip"):
            trained_weights(cfg, start)
    assert trained_weights(cfg, "mine.pth") == "mine.pth"


def test_a_trunk_alone_is_no_trained_model(tiny_config, tmp_path):
    model = instantiate(tiny_config.model)
    trunk = {name: torch.clone(part) for name, part in model.backbone.vit.state_dict().items()}
    torch.save(trunk, tmp_path / "trunk.pth")
    with pytest.raises(ValueError, match="would stay at random"):
        load_trained(model, str(tmp_path / "trunk.pth"))
