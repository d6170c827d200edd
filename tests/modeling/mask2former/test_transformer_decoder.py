import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitadapter_d2.modeling.mask2former.transformer_decoder import (
    MaskedTransformerDecoder,
    MultiheadAttention,
    attention_mask,
)


def make_decoder(**kwargs):
    options = {"num_classes": 3, "num_queries": 5, "in_channels": 32, "embed_dim": 32}
    options |= {"mask_dim": 16, "num_heads": 4, "feedforward_dim": 40, "num_layers": 4}
    return MaskedTransformerDecoder(**(options | kwargs))


def make_inputs(batch=2, channels=32, mask_dim=16):
    maps = [torch.randn(batch, channels, *size) for size in ((2, 3), (4, 5), (7, 9))]
    return maps, torch.randn(batch, mask_dim, 13, 18)


def test_default_has_the_parameters_of_the_released_models():
    with torch.device("meta"):
        decoder = MaskedTransformerDecoder(num_classes=133)
    assert len(decoder.state_dict()) == 175
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 14_493_062


@pytest.mark.parametrize(
    ("options", "projected"),
    [({}, False), ({"in_channels": 24}, True), ({"enforce_input_proj": True}, True)],
)
def test_maps_are_projected_only_if_needed(options, projected):
    decoder = make_decoder(**options)
    keys = [name for name in decoder.state_dict() if name.startswith("input_proj")]
    assert len(keys) == (6 if projected else 0)
    maps, mask_features = make_inputs(channels=options.get("in_channels", 32))
    assert len(decoder(maps, mask_features)) == 5


def test_one_prediction_before_and_one_after_every_layer():
    predictions = make_decoder()(*make_inputs())
    assert len(predictions) == 5
    for prediction in predictions:
        assert prediction.pred_logits.shape == (2, 5, 4)
        assert prediction.pred_masks.shape == (2, 5, 13, 18)


def test_attention_equals_torch_with_a_mask_for_every_head():
    ours, theirs = MultiheadAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    allowed = torch.rand(2, 5, 7) > 0.5
    allowed[..., 0] = True
    forbidden = (~allowed).repeat_interleave(4, dim=0)
    expected, _ = theirs(query, key, value, attn_mask=forbidden)
    torch.testing.assert_close(ours(query, key, value, allowed), expected)
    expected, _ = theirs(query, key, value)
    torch.testing.assert_close(ours(query, key, value), expected)


def test_attention_is_allowed_where_the_resized_logit_is_not_negative():
    logits = torch.randn(2, 3, 8, 12)
    allowed = attention_mask(logits, (4, 6))
    # Halving a map bilinearly, without antialias, is the mean of each 2 x 2 cell.
    expected = F.avg_pool2d(logits, 2).flatten(2) >= 0
    assert torch.equal(allowed, expected)
    assert not expected.all() and expected.any(-1).all()


def test_empty_mask_allows_everything_and_zero_counts_as_inside():
    logits = torch.full((1, 3, 4, 4), -1.0)
    logits[0, 1, :2, :2] = 1.0
    logits[0, 2, 0, 0] = 0.0
    allowed = attention_mask(logits, (4, 4))[0]
    assert allowed[0].all()
    assert allowed[1].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert allowed[2].nonzero().flatten().tolist() == [0]


def test_queries_see_only_their_mask():
    decoder = make_decoder(num_layers=1)
    nn.init.zeros_(decoder.transformer_self_attention_layers[0].self_attn.out_proj.weight)
    maps, _ = make_inputs(batch=1)
    # Queries 0 and 3 get a mask in the left column, the others one in the two columns beside it.
    with torch.no_grad():
        embeddings = decoder.mask_embed(decoder.decoder_norm(decoder.query_feat.weight))
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])
    mask_features = (torch.linalg.pinv(embeddings) @ signs).view(1, 16, 1, 1)
    mask_features = mask_features * torch.tensor([1.0, -1.0, -1.0]).expand(2, 3)
    original = decoder(maps, mask_features)[-1].pred_logits[0]
    maps[0][..., 1:] += torch.randn(1, 32, 2, 2)
    changed = decoder(maps, mask_features)[-1].pred_logits[0]
    same = torch.isclose(changed, original, atol=1e-6).all(-1)
    assert same.tolist() == [True, False, False, True, False]


def test_gradient_reaches_every_parameter():
    decoder = make_decoder()
    loss = 0
    for prediction in decoder(*make_inputs()):
        for part in (prediction.pred_logits, prediction.pred_masks):
            loss = loss + (part * torch.randn_like(part)).sum()
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_bf16_autocast_is_finite_in_both_directions():
    decoder = make_decoder()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = decoder(*make_inputs())[-1]
        loss = prediction.pred_masks.float().square().mean() + prediction.pred_logits.sum()
    loss.backward()
    assert prediction.pred_masks.isfinite().all()
    assert all(
        parameter.grad.isfinite().all()
        for parameter in decoder.parameters()
        if parameter.grad is not None
    )


def test_bad_number_of_heads_is_named():
    with pytest.raises(ValueError, match="num_heads must divide embed_dim 32, got 5"):
        make_decoder(num_heads=5)
