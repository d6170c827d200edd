import pytest
import torch
from torch import nn

from vitadapter_d2.modeling.mask2former import MaskedTransformerDecoder
from vitadapter_d2.solver import (
    MASK2FORMER_FIRST_LAYER,
    LayerDecay,
    PrefixFactor,
    param_groups,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.table = nn.Embedding(5, 3)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 3))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_norms_biases_and_embeddings_are_not_decayed():
    model = Model()
    groups = param_groups(model, base_lr=0.1, weight_decay=0.05)
    decayed = [p for group in groups if group["weight_decay"] == 0.05 for p in group["params"]]
    exempt = [p for group in groups if group["weight_decay"] == 0.0 for p in group["params"]]
    assert [id(p) for p in decayed] == [id(model.linear.weight)]
    assert len(exempt) == 5
    assert all(group["lr"] == 0.1 for group in groups)


def test_layer_decay_slows_the_depth_of_the_trunk():
    decay = LayerDecay(rate=0.5, depth=4)
    factors = {
        "backbone.vit.pos_embed": 0.5**5,
        "backbone.bottom_up.vit.patch_embed.proj.weight": 0.5**5,
        "backbone.vit.blocks.0.attn.qkv.weight": 0.5**4,
        "backbone.bottom_up.vit.blocks.3.ls1.gamma": 0.5,
        "backbone.interactions.0.injector.gamma": 1.0,
        "backbone.fpn_lateral2.weight": 1.0,
        "sem_seg_head.predictor.query_feat.weight": 1.0,
    }
    assert {name: decay(name) for name in factors} == factors


def test_official_segmentation_code_puts_queries_into_the_first_layer():
    names = [
        "sem_seg_head.predictor.query_feat.weight",
        "sem_seg_head.predictor.query_embed.weight",
        "sem_seg_head.predictor.level_embed.weight",
        "sem_seg_head.predictor.class_embed.bias",
        "sem_seg_head.predictor.mask_embed.layers.0.weight",
    ]
    others = [
        "sem_seg_head.pixel_decoder.transformer.level_embed",
        "sem_seg_head.predictor.decoder_norm.weight",
        "backbone.level_embed",
    ]
    segmentation = LayerDecay(0.5, 4, MASK2FORMER_FIRST_LAYER)
    detection = LayerDecay(0.5, 4)
    assert [segmentation(name) for name in names + others] == [0.5**5] * 5 + [1.0] * 3
    assert {detection(name) for name in names + others} == {1.0}


def test_first_layer_names_exist_in_mask2former():
    decoder = MaskedTransformerDecoder(
        num_classes=2,
        num_queries=3,
        in_channels=8,
        embed_dim=8,
        mask_dim=8,
        num_heads=2,
        feedforward_dim=8,
        num_layers=1,
    )
    names = [f"sem_seg_head.predictor.{name}" for name, _ in decoder.named_parameters()]
    for prefix in MASK2FORMER_FIRST_LAYER:
        assert any(name.startswith(prefix) for name in names), prefix


def test_rate_must_be_a_factor():
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got 1.5"):
        LayerDecay(rate=1.5, depth=12)


def test_blocks_beyond_the_depth_are_named():
    with pytest.raises(ValueError, match="blocks.20.* is beyond the 12 blocks"):
        LayerDecay(rate=0.8, depth=12)("backbone.vit.blocks.20.norm1.weight")


def test_prefix_has_its_own_rate():
    groups = param_groups(Model(), 0.1, 0.0, lr_factor=PrefixFactor("linear.", 0.5))
    assert sorted((group["lr"], len(group["params"])) for group in groups) == [(0.05, 2), (0.1, 4)]
