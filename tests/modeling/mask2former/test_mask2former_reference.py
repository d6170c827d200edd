"""Parity with facebookresearch/Mask2Former, by a case with random weights."""

import pytest
import torch

from vitadapter_d2.modeling.mask2former.head import MaskFormerHead
from vitadapter_d2.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from vitadapter_d2.modeling.mask2former.transformer_decoder import MaskedTransformerDecoder

pytestmark = pytest.mark.weights


@pytest.fixture
def head():
    pixel_decoder = MSDeformAttnPixelDecoder(
        in_channels=48, embed_dim=64, mask_dim=64, num_heads=8, num_layers=2, feedforward_dim=128
    )
    predictor = MaskedTransformerDecoder(
        in_channels=64,
        embed_dim=64,
        mask_dim=64,
        num_classes=5,
        num_queries=7,
        num_heads=8,
        feedforward_dim=96,
        num_layers=3,
    )
    return MaskFormerHead(pixel_decoder=pixel_decoder, predictor=predictor)


def test_state_dict_names_are_those_of_facebook(reference_case, head):
    case = reference_case("m2f_fb_base")
    expected = {name: value.shape for name, value in case.state_dict.items()}
    assert {name: value.shape for name, value in head.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in head.parameters()) == case.n_params


def test_outputs_and_gradients_meet_the_reference(reference_case, head):
    case = reference_case("m2f_fb_base")
    head.load_state_dict(case.state_dict)
    features = dict(zip(("res2", "res3", "res4", "res5"), case.input, strict=True))
    mask_features, maps = head.pixel_decoder(features)
    predictions = head.predictor(maps, mask_features)
    ordered = [predictions[-1], *predictions[:-1]]  # the case has the final one first
    outputs = [mask_features, *maps]
    outputs += [part for each in ordered for part in (each.pred_logits, each.pred_masks)]
    case.check_outputs(outputs)
    case.check_gradients(outputs, head, rename=lambda name: name)
    for name, parameter in head.named_parameters():
        expected = pytest.approx(case.grad_abs_sum[name], rel=1e-3)
        assert parameter.grad.abs().sum().item() == expected, name


def test_batch_of_one_gives_the_same(reference_case, head):
    case = reference_case("m2f_fb_base")
    head.load_state_dict(case.state_dict)
    names = ("res2", "res3", "res4", "res5")
    with torch.no_grad():
        both = head(dict(zip(names, case.input, strict=True)))
        one = head(dict(zip(names, [level[1:] for level in case.input], strict=True)))
    torch.testing.assert_close(one[-1].pred_masks, both[-1].pred_masks[1:], atol=1e-4, rtol=1e-4)
