import pytest
import torch
import torch.nn.functional as F

from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.checkpoint.vit_adapter import MODULE_RULES, convert_module
from vitadapter_d2.modeling.backbone import AddInjector, InteractionBlock
from vitadapter_d2.modeling.backbone.cross_attention import DeformableAttention
from vitadapter_d2.modeling.backbone.interaction import (
    ConvFFN,
    Extractor,
    Geometry,
    Injector,
    interaction_blocks,
)

LEVELS = ((12, 20), (6, 10), (3, 5))
GEOMETRY = Geometry.of((6, 10), LEVELS, torch.device("cpu"))


def check(case, module):
    module.load_state_dict(convert_module(case.state_dict))
    inputs = [tensor.requires_grad_() for tensor in case.input]
    output = module.eval()(*inputs, GEOMETRY)
    case.check_outputs([output])
    case.check_gradients([output], module, lambda key: rename_key(key, MODULE_RULES))
    case.check_input_gradients(inputs)


def test_official_injector(reference_case):
    case = reference_case("injector")
    check(case, Injector(48, DeformableAttention(48, 3, 6, 4, case.config["deform_ratio"])))


def test_official_extractor(reference_case):
    case = reference_case("extractor")
    attn = DeformableAttention(48, 1, 6, 4, case.config["deform_ratio"])
    check(case, Extractor(48, attn, ConvFFN(48, int(48 * case.config["cffn_ratio"]))))


def test_extractor_without_feed_forward_is_attention_alone():
    extractor = Extractor(8, DeformableAttention(8, 1, 2))
    names = {name.split(".")[0] for name, _ in extractor.named_parameters()}
    assert names == {"query_norm", "feat_norm", "attn"}
    pyramid, tokens = torch.randn(1, 315, 8), torch.randn(1, 60, 8)
    assert extractor(pyramid, tokens, GEOMETRY).shape == (1, 315, 8)


def test_last_interaction_has_the_extra_extractors():
    blocks = interaction_blocks(16, [(0, 0), (1, 1)], num_heads=2, num_extra_extractors=2)
    assert [len(block.extra_extractors) for block in blocks] == [0, 2]


def test_light_variant_is_one_exchange_by_attention():
    (block,) = interaction_blocks(
        16, [(0, 11)], num_heads=2, ffn_ratio=None, num_extra_extractors=0
    )
    assert block.span == (0, 11)
    assert {name for name, _ in block.named_children()} == {
        "injector",
        "extractor",
        "extra_extractors",
    }
    assert not block.extra_extractors
    assert block.extractor.ffn is None


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_layer_norms_share_one_epsilon(eps):
    blocks = torch.nn.ModuleList(
        interaction_blocks(16, [(0, 0), (1, 1)], num_heads=2, norm_eps=eps)
    )
    norms = [module for module in blocks.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 2 + 4 * 3
    assert {norm.eps for norm in norms} == {eps}


def test_added_levels_are_resized_to_the_grid():
    tokens, pyramid = torch.randn(2, 60, 8), torch.randn(2, 315, 8)
    expected = tokens.transpose(1, 2).reshape(2, 8, 6, 10).clone()
    for level, size in zip(pyramid.split([240, 60, 15], dim=1), LEVELS, strict=True):
        level = level.transpose(1, 2).reshape(2, 8, *size)
        expected += F.interpolate(level, size=(6, 10), mode="bilinear", align_corners=False)
    output = AddInjector()(tokens, pyramid, GEOMETRY)
    torch.testing.assert_close(output, expected.flatten(2).transpose(1, 2))


class Trunk:
    """Counts its blocks into the tokens."""

    num_prefix_tokens = 1

    def run(self, tokens, grid, first, last):
        return tokens + (last - first + 1)


def test_block_without_injector_and_extractors_is_the_trunk_alone():
    tokens, pyramid = torch.randn(1, 61, 8), torch.randn(1, 315, 8)
    after, untouched = InteractionBlock((2, 4))(tokens, pyramid, Trunk(), GEOMETRY)
    torch.testing.assert_close(after, tokens + 3)
    assert untouched is pyramid
