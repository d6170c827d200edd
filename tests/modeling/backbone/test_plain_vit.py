import pytest
import timm
import torch
from timm.models.vision_transformer import (
    Block,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import nn

from vitadapter_d2.modeling.backbone import plain_vit


def tiny(**options):
    defaults = dict(img_size=64, embed_dim=48, depth=3, num_heads=4, num_classes=0)
    return VisionTransformer(**{**defaults, **options}).eval()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(reg_tokens=3),
        dict(reg_tokens=3, no_embed_class=True),
        dict(class_token=False, global_pool="avg"),
        dict(init_values=0.3, qk_norm=True),
        dict(pre_norm=True, final_norm=False),
    ],
)
def test_equals_timm_with_the_adapter_off(options):
    model = tiny(**options)
    nn.init.normal_(model.pos_embed)
    image = torch.randn(2, 3, 64, 64)
    expected = model.forward_intermediates(
        image, norm=False, intermediates_only=True, output_fmt="NLC"
    )
    trunk = plain_vit(model, keep_prefix_tokens=True)
    tokens, grid = trunk.embed(image)
    assert grid == (4, 4)
    for block, features in enumerate(expected):
        tokens = trunk.run(tokens, grid, block, block)
        torch.testing.assert_close(tokens[:, trunk.num_prefix_tokens :], features)


def test_other_grids_equal_timm_with_antialiased_positions():
    model = tiny(dynamic_img_size=True)
    image = torch.randn(1, 3, 48, 96)
    (expected,) = model.forward_intermediates(
        image, indices=1, norm=False, intermediates_only=True, output_fmt="NLC"
    )
    trunk = plain_vit(model, keep_prefix_tokens=True, antialias_positions=True)
    tokens, grid = trunk.embed(image)
    torch.testing.assert_close(trunk.run(tokens, grid, 0, 2)[:, 1:], expected)


@pytest.mark.parametrize("patch_size", [8, 14, 32])
def test_any_patch_size_becomes_stride_16(patch_size):
    model = tiny(img_size=patch_size * 5, patch_size=patch_size)
    trunk = plain_vit(model)
    tokens, grid = trunk.embed(torch.randn(1, 3, 64, 96))
    assert (tokens.shape, grid) == ((1, 24, 48), (4, 6))


def test_weights_keep_timm_names():
    model = tiny(reg_tokens=2, init_values=0.1)
    names = set(model.state_dict())
    trunk = plain_vit(model, window_sizes=(2, None, 3))
    unused = names - set(trunk.state_dict())
    assert unused == {"cls_token", "reg_token", "norm.weight", "norm.bias"}
    assert set(trunk.state_dict()) <= names


def test_windows_repeat_over_the_depth_and_must_divide_it():
    trunk = plain_vit(tiny(depth=4), window_sizes=(2, None))
    windows = [block.attn.window and block.attn.window.size for block in trunk.blocks]
    assert windows == [2, None] * 2
    with pytest.raises(ValueError, match="3 entries, which must divide the depth 4"):
        plain_vit(tiny(depth=4), window_sizes=(2, None, 2))


def test_unknown_models_are_named():
    with pytest.raises(TypeError, match="no trunk for a ResNet.*VisionTransformer"):
        plain_vit(timm.create_model("resnet10t"))


def test_blocks_and_attentions_of_other_types_are_refused():
    model = tiny()
    model.blocks[1].attn = nn.MultiheadAttention(48, 4)
    with pytest.raises(ValueError, match="attentions of type MultiheadAttention are not supported"):
        plain_vit(model)
    model = tiny()
    model.blocks[1] = nn.TransformerEncoderLayer(48, 4)
    with pytest.raises(ValueError, match="blocks of type TransformerEncoderLayer are not"):
        plain_vit(model)


def test_subclasses_may_compute_something_else():
    class DoubledBlock(Block):
        def forward(self, x, **options):
            return 2.0 * super().forward(x, **options)

    with pytest.raises(ValueError, match="blocks of type DoubledBlock are not supported"):
        plain_vit(tiny(block_fn=DoubledBlock))


def test_stems_are_refused():
    with pytest.raises(ValueError, match="hybrid and convolutional stems.*got HybridEmbed"):
        plain_vit(timm.create_model("vit_tiny_r_s16_p8_224"))


def test_models_that_look_plain_are_refused_with_their_reason():
    with torch.device("meta"), pytest.raises(TypeError, match="no trunk for a Cait: its heads"):
        plain_vit(timm.create_model("cait_xxs24_224"))


def test_windows_in_parallel_and_post_norm_blocks():
    image = torch.randn(2, 3, 64, 64)
    for kind in (ParallelThingsBlock, ResPostBlock):
        torch.manual_seed(0)
        windowed = plain_vit(tiny(block_fn=kind), window_sizes=(4,)).eval()
        torch.manual_seed(0)
        whole = plain_vit(tiny(block_fn=kind)).eval()
        # One window that covers the grid is global attention; smaller ones are not.
        expected = whole.run(*whole.embed(image), 0, 2)
        torch.testing.assert_close(windowed.run(*windowed.embed(image), 0, 2), expected)
        torch.manual_seed(0)
        smaller = plain_vit(tiny(block_fn=kind), window_sizes=(2,)).eval()
        assert not torch.allclose(smaller.run(*smaller.embed(image), 0, 2), expected)
