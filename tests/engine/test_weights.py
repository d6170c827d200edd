import pytest
import torch
from detectron2.config import instantiate

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.weights import load_trained, trained_weights
from vitadapter_d2.modeling.backbone import frozen


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
    with pytest.raises(ValueError, match="parts of it would stay at random"):
        load_trained(model, str(tmp_path / "trunk.pth"))


def saved(model, folder, **options):
    Checkpointer(model, str(folder), **options).save("model")
    return str(folder / "model.pth")


def test_a_part_of_a_model_is_no_trained_model(tiny_config, tmp_path):
    """Files of this project load as far as they fit, which is too little to predict with."""
    small = instantiate(tiny_config.model)
    tiny_config.model.criterion.num_classes = 5
    model = instantiate(tiny_config.model)
    with pytest.raises(ValueError, match="it has no sem_seg_head.predictor.class_embed.weight"):
        load_trained(model, saved(small, tmp_path))
    load_trained(model, saved(model, tmp_path))


def test_what_was_trained_alone_needs_what_it_started_from(tiny_config, tmp_path):
    models = [instantiate(tiny_config.model) for _ in range(3)]
    start = saved(models[0], tmp_path / "start")
    Checkpointer(models[1]).load(start)
    for model in models:
        frozen(model.backbone.vit)
    torch.nn.init.normal_(models[1].backbone.level_embed)
    trained = saved(models[1], tmp_path, trained_only=True)
    with pytest.raises(ValueError, match=r"what was not, backbone.vit.* must come"):
        load_trained(models[2], trained)
    load_trained(models[2], trained, start)
    for name, tensor in models[2].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])
    load_trained(models[1], trained)  # its frozen parameters are right already
