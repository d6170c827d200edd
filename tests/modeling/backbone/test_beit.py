import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.checkpoint.vit_adapter import BACKBONE_RULES, convert_backbone
from vitadapter_d2.layers.relative_table import resize_relative_table
from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)


def tiny_beit(img_size=96, **options):
    defaults = dict(
        embed_dim=48, depth=4, num_heads=4, num_classes=0, init_values=0.1, use_abs_pos_emb=False
    )
    model = Beit(img_size=img_size, use_rel_pos_bias=True, **{**defaults, **options})
    for block in model.blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)
    return model.eval()


def build(trunk, added_stages):
    return ViTAdapter(
        trunk,
        SpatialPriorModule(48, channels=8),
        interaction_blocks(
            48,
            [(index, index) for index in range(4)],
            num_heads=6,
            deform_ratio=0.5,
            injector_init=1e-6,
        ),
        added_stages=added_stages,
    ).eval()


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "options", "added_stages"),
    [
        ("beit_adapter_seg", dict(keep_prefix_tokens=True), (0, 1, 2, 3)),
        (
            "beit_adapter_det",
            dict(keep_prefix_tokens=False, window_sizes=(4, 4, 4, 8)),
            (-1, -1, -1, -1),
        ),
    ],
)
def test_official_outputs_and_gradients(reference_case, name, options, added_stages):
    case = reference_case(name)
    model = build(plain_vit(tiny_beit(), **options), added_stages)
    model.load_state_dict(convert_backbone(case.state_dict))
    outputs = list(model(case.input).values())
    case.check_outputs(outputs)
    case.check_gradients(outputs, model, lambda key: rename_key(key, BACKBONE_RULES))


def test_equals_timm_with_the_adapter_off():
    model = tiny_beit(use_abs_pos_emb=True)
    nn.init.normal_(model.pos_embed)
    image = torch.randn(2, 3, 96, 96)
    expected = model.forward_intermediates(
        image, norm=False, intermediates_only=True, output_fmt="NLC"
    )
    trunk = plain_vit(model)
    tokens, grid = trunk.embed(image)
    for block, features in enumerate(expected):
        tokens = trunk.run(tokens, grid, block, block)
        torch.testing.assert_close(tokens[:, 1:], features)


@pytest.mark.parametrize("windows", [(None,), (4, 6)])
def test_any_size_and_every_gradient(windows):
    trunk = plain_vit(tiny_beit(), window_sizes=windows, keep_prefix_tokens=windows == (None,))
    model = build(trunk, (0, 1, 2, 3)).train()
    outputs = model(torch.randn(1, 3, 70, 130))
    assert outputs["res4"].shape == (1, 48, 5, 9)
    sum(output.square().sum() for output in outputs.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_kept_biases_follow_the_grid_and_the_weights():
    trunk = plain_vit(tiny_beit()).eval()
    with torch.no_grad():
        for size in (96, 64, 96):
            tokens, grid = trunk.embed(torch.randn(1, 3, size, size))
            kept = trunk.run(tokens, grid, 0, 3)
            again = trunk.run(tokens, grid, 0, 3)
            torch.testing.assert_close(again, kept)
        trunk.blocks[0].attn.relative_position_bias_table.mul_(-1.0)
        assert not torch.allclose(trunk.run(tokens, grid, 0, 3), kept)
        trunk.blocks[0].attn.relative_position_bias_table.mul_(-1.0)
    torch.testing.assert_close(trunk.run(tokens, grid, 0, 3).detach(), kept)


def test_large_biases_are_not_kept():
    trunk = plain_vit(tiny_beit())
    attn = trunk.blocks[0].attn
    with torch.no_grad():
        small = attn.bias((6, 6), 1, torch.float32)
        assert attn.bias((6, 6), 1, torch.float32) is small
        attn.kept_elements = small.numel() - 1
        attn.eval()
        large = attn.bias((6, 6), 1, torch.float32)
        assert attn.bias((6, 6), 1, torch.float32) is not large
        torch.testing.assert_close(large, small)


def test_kept_biases_follow_a_parameter_that_is_replaced():
    trunk, other = plain_vit(tiny_beit()).eval(), plain_vit(tiny_beit()).eval()
    tokens, grid = trunk.embed(torch.randn(1, 3, 96, 96))
    with torch.no_grad():
        trunk.run(tokens, grid, 0, 3)
        state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        trunk.load_state_dict(state, assign=True)
        expected = other.run(tokens, grid, 0, 3)
        torch.testing.assert_close(trunk.run(tokens, grid, 0, 3), expected)
        for parameter in (*trunk.parameters(), *other.parameters()):
            parameter.data.mul_(0.5)  # as averaging hooks do; torch counts no new version
        expected = other.eval().run(tokens, grid, 0, 3)
        torch.testing.assert_close(trunk.eval().run(tokens, grid, 0, 3), expected)
        fresh = plain_vit(tiny_beit()).eval()
        fresh.load_state_dict(other.state_dict())
        torch.testing.assert_close(expected, fresh.run(tokens, grid, 0, 3))


def test_a_thread_gets_its_own_bias_whenever_another_asks_in_between():
    attn = plain_vit(tiny_beit()).eval().blocks[0].attn

    class Interrupted(tuple):
        """A grid during whose comparison the other thread's call runs."""

        __hash__ = tuple.__hash__

        def __eq__(self, other):
            attn.bias((3, 2), 1, torch.float32)
            return tuple.__eq__(self, other)

    with torch.no_grad():
        expected = attn.bias((6, 6), 1, torch.float32)
        interrupted = attn.bias(Interrupted((6, 6)), 1, torch.float32)
    assert interrupted.shape == expected.shape
    torch.testing.assert_close(interrupted, expected)


def test_a_trunk_that_is_built_without_versions_runs():
    with torch.inference_mode():
        trunk = plain_vit(tiny_beit()).eval()
        tokens, grid = trunk.embed(torch.randn(1, 3, 96, 96))
        assert trunk.run(tokens, grid, 0, 3).shape == tokens.shape


def test_index_buffers_are_not_stored():
    trunk = plain_vit(tiny_beit())
    assert not [name for name in trunk.state_dict() if "index" in name]


def test_tables_of_their_own_are_needed():
    model = Beit(img_size=64, embed_dim=48, depth=2, num_heads=4, use_shared_rel_pos_bias=True)
    with pytest.raises(ValueError, match="a relative-position table of its own"):
        plain_vit(model)


def test_stored_tables_are_resized_from_timms():
    model = tiny_beit()
    timm_tables = [block.attn.relative_position_bias_table for block in model.blocks]
    options = dict(table_grid=(8, 10), window_sizes=(None, 3, None, 6), keep_prefix_tokens=False)
    blocks = plain_vit(model, **options).blocks
    sides = [(15, 19), (5, 5), (15, 19), (11, 11)]
    for block, timm_table, side in zip(blocks, timm_tables, sides, strict=True):
        if side[0] == side[1]:
            expected = resize_relative_table(timm_table[:-3], side[0], num_extra=0)
        else:
            maps = timm_table[:-3].T.reshape(1, 4, 11, 11)
            expected = nn.functional.interpolate(maps, side, mode="bicubic")[0].flatten(1).T
        torch.testing.assert_close(block.attn.relative_position_bias_table, expected)
    kept = plain_vit(tiny_beit(), table_grid=(8, 10)).blocks[0].attn.relative_position_bias_table
    assert len(kept) == 15 * 19 + 3
