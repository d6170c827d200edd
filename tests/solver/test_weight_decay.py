"""The official rules, on a ViT-Adapter and on what the heads have."""

import pytest
import torch
from detectron2.layers import Conv2d
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)
from vitadapter_d2.solver import DecayByKey, ExemptByName, ExemptVectors, LrByKey, param_groups

SIZES = dict(embed_dim=16, depth=1, num_heads=2, num_classes=0)
TRUNKS = {
    "vit": lambda: plain_vit(VisionTransformer(**SIZES, init_values=1.0), keep_prefix_tokens=True),
    "beit": lambda: plain_vit(
        Beit(**SIZES, img_size=32, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1)
    ),
}


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fpn_lateral2 = Conv2d(16, 8, 1, bias=False, norm=nn.BatchNorm2d(8))
        self.level_embed = nn.Embedding(3, 8)
        self.decoder_norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.tensor(1.0))


def decayed(rule, trunk="vit"):
    model = nn.Module()
    blocks = interaction_blocks(16, [(0, 0)], num_heads=2)
    model.backbone = ViTAdapter(TRUNKS[trunk](), SpatialPriorModule(16, 4), blocks)
    model.head = Head()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, base_lr=1.0, weight_decay=0.1, decay_factor=rule)
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {
        names[id(parameter)]
        for group in groups
        if group["weight_decay"]
        for parameter in group["params"]
    }, set(names.values())


MATRICES = {
    "backbone.vit.patch_embed.proj.weight",
    "backbone.vit.blocks.0.attn.qkv.weight",
    "backbone.vit.blocks.0.mlp.fc1.weight",
    "backbone.spatial_prior.stem.0.weight",
    "backbone.interactions.0.extractor.ffn.dwconv.weight",
    "backbone.up.weight",
    "head.fpn_lateral2.weight",
}
EMBEDDINGS = {
    "backbone.vit.pos_embed",
    "backbone.vit.cls_token",
    "backbone.level_embed",
    "head.level_embed.weight",
}
NORMS_AND_SCALES = {
    "backbone.vit.blocks.0.norm1.weight",
    "backbone.interactions.0.injector.query_norm.weight",
    "backbone.norms.res2.weight",
    "backbone.norms.res2.bias",
    "backbone.vit.blocks.0.attn.qkv.bias",
    "head.decoder_norm.weight",
}
GAMMAS = {"backbone.vit.blocks.0.ls1.gamma", "backbone.interactions.0.injector.gamma"}
CONVOLUTION_NORMS = {"backbone.spatial_prior.stem.1.weight", "head.fpn_lateral2.norm.weight"}


def test_house_rule_decays_matrices_alone():
    chosen, known = decayed(ExemptByName())
    assert chosen >= MATRICES
    exempt = EMBEDDINGS | NORMS_AND_SCALES | GAMMAS | CONVOLUTION_NORMS | {"head.scale"}
    assert exempt <= known - chosen
    assert decayed(None)[0] == chosen


def test_official_layer_decay_decays_embeddings_too():
    chosen, known = decayed(ExemptVectors())
    assert chosen >= MATRICES | EMBEDDINGS | {"head.scale"}
    assert NORMS_AND_SCALES | GAMMAS | CONVOLUTION_NORMS <= known - chosen


def test_official_layer_decay_decays_bias_tables():
    table = "backbone.vit.blocks.0.attn.relative_position_bias_table"
    assert table in decayed(ExemptVectors(), "beit")[0]
    assert table not in decayed(DecayByKey(), "beit")[0]


def test_official_custom_keys_decay_gammas_and_convolution_norms():
    chosen, known = decayed(DecayByKey())
    assert chosen >= MATRICES | GAMMAS | CONVOLUTION_NORMS | {"backbone.vit.cls_token"}
    exempt = (EMBEDDINGS | NORMS_AND_SCALES) - {"backbone.vit.cls_token"}
    assert exempt <= known - chosen
    assert "backbone.spatial_prior.stem.1.bias" in known - chosen


def test_the_longest_key_decides_for_rate_and_decay():
    """The keys of the official UPerNet on AugReg-B, where heads learn ten times as fast."""
    decay = DecayByKey({"bias": 0.0, "level_embed": 0.0, "norm": 0.0, "pos_embed": 0.0, "head": 1})
    rate = LrByKey({"bias": 1.0, "level_embed": 1.0, "norm": 1.0, "pos_embed": 1.0, "head": 10.0})
    owner, parameter = nn.BatchNorm2d(2), nn.Parameter(torch.zeros(2))
    expected = {
        "sem_seg_head.conv.weight": (10.0, 1.0),
        "sem_seg_head.conv.norm.weight": (10.0, 1.0),
        "sem_seg_head.conv.bias": (1.0, 0.0),
        "backbone.vit.pos_embed": (1.0, 0.0),
        "sem_seg_head.predictor.level_embed.weight": (1.0, 0.0),
        "backbone.up.weight": (1.0, 1.0),
    }
    assert {name: (rate(name), decay(name, parameter, owner)) for name in expected} == expected


def test_decay_can_be_a_fraction():
    model = nn.Module()
    model.proposals, model.rest = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    groups = param_groups(model, 1.0, 0.5, decay_factor=DecayByKey({"proposals": 0.002}))
    assert [group["weight_decay"] for group in groups] == pytest.approx([0.001, 0.5])
