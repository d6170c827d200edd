"""mmsegmentation's Mask2Former in our modules, by a case with random weights."""

import pytest
import torch

from vitadapter_d2.checkpoint.mask2former import MASK2FORMER_RULES, convert_mask2former
from vitadapter_d2.checkpoint.rename import rename_key
from vitadapter_d2.modeling.mask2former import (
    MaskedTransformerDecoder,
    MaskFormerHead,
    MSDeformAttnPixelDecoder,
)


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


@pytest.mark.weights
def test_outputs_and_gradients_meet_the_reference(reference_case, head):
    case = reference_case("m2f_mmseg")
    head.load_state_dict(convert_mask2former(case.state_dict))
    features = dict(zip(("res2", "res3", "res4", "res5"), case.input, strict=True))
    mask_features, maps = head.pixel_decoder(features)
    *earlier, last = head.predictor(maps, mask_features)
    classes, masks = last.pred_logits, last.pred_masks
    scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())
    outputs = [mask_features, *maps, classes, masks, scores]
    outputs += [part for each in earlier for part in (each.pred_logits, each.pred_masks)]
    for output, expected in zip(outputs, case.outputs, strict=True):
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(output, expected, atol=atol, rtol=0)
    case.check_gradients(outputs, head, lambda key: rename_key(key, MASK2FORMER_RULES))
    for key, expected in case.grad_abs_sum.items():
        gradient = head.get_parameter(rename_key(key, MASK2FORMER_RULES)).grad
        assert gradient.abs().sum().item() == pytest.approx(expected, rel=1e-3), key


def test_projections_before_the_decoder_have_a_name():
    converted = convert_mask2former({"decoder_input_projs.2.weight": torch.zeros(1)})
    assert list(converted) == ["predictor.input_proj.2.weight"]
