import torch

from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.checkpoint.vit_adapter import MODULE_RULES, convert_module
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
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
    check(case, Injector(48, MSDeformAttn(48, 3, 6, 4, case.config["deform_ratio"])))


def test_official_extractor(reference_case):
    case = reference_case("extractor")
    attn = MSDeformAttn(48, 1, 6, 4, case.config["deform_ratio"])
    check(case, Extractor(48, attn, ConvFFN(48, int(48 * case.config["cffn_ratio"]))))


def test_extractor_without_feed_forward_is_attention_alone():
    extractor = Extractor(8, MSDeformAttn(8, 1, 2))
    names = {name.split(".")[0] for name, _ in extractor.named_parameters()}
    assert names == {"query_norm", "feat_norm", "attn"}
    pyramid, tokens = torch.randn(1, 315, 8), torch.randn(1, 60, 8)
    assert extractor(pyramid, tokens, GEOMETRY).shape == (1, 315, 8)


def test_last_interaction_has_the_extra_extractors():
    blocks = interaction_blocks(16, [(0, 0), (1, 1)], num_heads=2, num_extra_extractors=2)
    assert [len(block.extra_extractors) for block in blocks] == [0, 2]
