"""Names of the official backbones; their numbers are tested in tests/modeling/backbone."""

import pytest
import torch

from vitadapter_d2.checkpoint.vit_adapter import convert_backbone


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("norm1.running_var", "norms.res2.running_var"),
        ("blocks.3.norm1.bias", "vit.blocks.3.norm1.bias"),
        ("blocks.3.gamma2", "vit.blocks.3.ls2.gamma"),
        ("blocks.3.gamma_2", "vit.blocks.3.gamma_2"),
        ("layers.3.gamma_2", "vit.blocks.3.ls2.gamma"),
        ("layers.3.self_attn.in_proj.bias", "vit.blocks.3.attn.qkv.bias"),
        ("visual_embed.patch_embed.proj.bias", "vit.patch_embed.proj.bias"),
        ("blocks.3.residual.norm3.bias", "propagation.3.norm3.bias"),
        ("up1.3.bias", "up1.3.bias"),
        ("fpn1.3.bias", "up1.3.bias"),
        ("fpn2.0.bias", "up2.bias"),
        ("interactions.3.injector.gamma", "interactions.3.injector.gamma"),
        (
            "interactions.3.extra_extractors.1.ffn.dwconv.dwconv.bias",
            "interactions.3.extra_extractors.1.ffn.dwconv.bias",
        ),
    ],
)
def test_names_of_trunk_adapter_and_baseline(official, ours):
    assert list(convert_backbone({official: torch.empty(0)})) == [ours]


def test_index_buffers_are_left_out():
    official = {
        "blocks.0.attn.relative_position_index": torch.empty(0),
        "rel_pos_bias.relative_position_bias_table": torch.empty(0),
        "blocks.0.attn.relative_position_bias_table": torch.empty(0),
    }
    assert list(convert_backbone(official)) == ["vit.blocks.0.attn.relative_position_bias_table"]
