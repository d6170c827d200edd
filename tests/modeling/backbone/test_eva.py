import pytest
import torch
from timm.models.eva import Eva
from torch import nn

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)

FAMILIES = {
    "EVA": dict(use_rot_pos_emb=False),
    "EVA-02": dict(use_rot_pos_emb=True, swiglu_mlp=True, qkv_fused=False, scale_mlp=True),
    "DINOv3": dict(
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_rotate_half=True,
        use_abs_pos_emb=False,
        num_reg_tokens=4,
        no_embed_class=True,
        init_values=0.1,
    ),
    "RoPE-ViT": dict(use_rot_pos_emb=True, rope_type="mixed", use_abs_pos_emb=False),
}


def tiny_eva(family, **options):
    defaults = dict(img_size=64, embed_dim=48, depth=2, num_heads=4, num_classes=0, patch_size=16)
    model = Eva(**{**defaults, **FAMILIES[family], **options}).eval()
    if model.pos_embed is not None:
        nn.init.normal_(model.pos_embed)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "dynamic"), [((64, 64), False), ((64, 64), True), ((48, 96), True)]
)
def test_equals_timm_with_the_adapter_off(family, size, dynamic):
    model = tiny_eva(family, dynamic_img_size=dynamic)
    image = torch.randn(2, 3, *size)
    expected = model.forward_intermediates(
        image, norm=False, intermediates_only=True, output_fmt="NLC"
    )
    trunk = plain_vit(model, antialias_positions=True)
    tokens, grid = trunk.embed(image)
    for block, features in enumerate(expected):
        tokens = trunk.run(tokens, grid, block, block)
        torch.testing.assert_close(tokens[:, trunk.num_prefix_tokens :], features)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep_prefix_tokens", [True, False])
def test_every_parameter_gets_a_gradient(family, keep_prefix_tokens):
    trunk = plain_vit(tiny_eva(family), keep_prefix_tokens=keep_prefix_tokens)
    assert trunk.num_prefix_tokens == (keep_prefix_tokens and (5 if family == "DINOv3" else 1))
    model = ViTAdapter(
        trunk,
        SpatialPriorModule(48, channels=8),
        interaction_blocks(48, [(0, 0), (1, 1)], num_heads=6, injector_init=1.0),
        added_stages=(0, 0, 1, 1),
    )
    outputs = model(torch.randn(2, 3, 70, 100))
    sum(output.square().sum() for output in outputs.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    "options",
    [
        dict(rope_type="dinov3", rope_rotate_half=True, dynamic_img_size=True),
        dict(rope_type="cat"),
        dict(rope_type="mixed"),
    ],
)
def test_training_augments_coordinates_once_for_all_blocks(options):
    model = tiny_eva("EVA-02", rope_rescale_coords=2.0, **options).train()
    image = torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    expected = model.forward_intermediates(
        image, norm=False, intermediates_only=True, output_fmt="NLC"
    )[-1]
    trunk = plain_vit(model).train()
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs.append(trunk.run(*trunk.embed(image), 0, 1)[:, 1:])
    torch.testing.assert_close(outputs[0], expected)
    assert not torch.allclose(*outputs)
    with torch.no_grad():
        clean = trunk.eval().run(*trunk.embed(image), 0, 1)
        torch.testing.assert_close(trunk.run(*trunk.embed(image), 0, 1), clean)


def test_a_model_made_for_one_size_follows_the_grid():
    image = torch.randn(1, 3, 48, 96)
    outputs = []
    for dynamic in (False, True):
        torch.manual_seed(0)
        trunk = plain_vit(tiny_eva("EVA-02", dynamic_img_size=dynamic))
        tokens, grid = trunk.embed(image)
        outputs.append(trunk.run(tokens, grid, 0, 1))
    torch.testing.assert_close(*outputs)


def test_a_thread_gets_its_own_table_whenever_another_asks_in_between(monkeypatch):
    trunk = plain_vit(tiny_eva("EVA-02"))
    if trunk.rope.bands is None:
        pytest.skip("timm before 1.0.31 has one table alone for a model made for one size")
    tokens, grid = trunk.embed(torch.randn(1, 3, 48, 96))
    expected = trunk.run(tokens, grid, 0, 1)
    update = trunk.rope.update_feat_shape
    monkeypatch.setattr(trunk.rope, "update_feat_shape", lambda shape: update([2, 2]))
    torch.testing.assert_close(trunk.run(tokens, grid, 0, 1), expected)
