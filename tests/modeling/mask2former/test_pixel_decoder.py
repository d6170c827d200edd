import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from vitadapter_d2.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder

NAMES = ("res2", "res3", "res4", "res5")
RESNET50 = dict(zip(NAMES, (256, 512, 1024, 2048), strict=True))


def make_decoder(**kwargs):
    options = {"in_channels": 24, "embed_dim": 32, "mask_dim": 20, "num_heads": 4}
    return MSDeformAttnPixelDecoder(**(options | {"num_layers": 2, "feedforward_dim": 48} | kwargs))


def make_features(sizes=((13, 18), (7, 9), (4, 5), (2, 3)), channels=24, batch=2):
    return {
        name: torch.randn(batch, channels, *size) for name, size in zip(NAMES, sizes, strict=True)
    }


@pytest.mark.parametrize(
    "in_channels",
    [RESNET50, {name: ShapeSpec(channels=channels) for name, channels in RESNET50.items()}],
)
def test_default_has_the_parameters_of_the_released_models(in_channels):
    with torch.device("meta"):
        decoder = MSDeformAttnPixelDecoder(in_channels=in_channels)
    assert len(decoder.state_dict()) == 117
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 6_035_904


@pytest.mark.parametrize("width", [192, 1024])
def test_equal_channels_on_all_levels(width):
    with torch.device("meta"):
        decoder = MSDeformAttnPixelDecoder(in_channels=width)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert count == 5_052_864 + 1024 * width


@pytest.mark.parametrize(
    "sizes", [((13, 18), (7, 9), (4, 5), (2, 3)), ((1, 1), (1, 1), (1, 1), (1, 1))]
)
def test_maps_keep_the_sizes_of_any_levels(sizes):
    decoder = make_decoder(embed_dim=64)  # with 32, torch refuses to normalise a single number
    mask_features, maps = decoder(make_features(sizes, batch=1))
    assert mask_features.shape == (1, 20, *sizes[0])
    assert [level.shape for level in maps] == [(1, 64, *size) for size in sizes[:0:-1]]


def test_levels_may_differ_in_channels():
    channels = dict(zip(NAMES, (4, 6, 8, 10), strict=True))
    features = {name: torch.randn(1, count, 4, 4) for name, count in channels.items()}
    _, maps = make_decoder(in_channels=channels)(features)
    assert len(maps) == 3


def test_encoder_starts_with_a_ring_of_offsets_and_equal_weights():
    attention = make_decoder().transformer.encoder.layers[0].self_attn
    assert (attention.sampling_offsets.weight == 0).all()
    assert (attention.attention_weights.weight == 0).all()
    ring = attention.sampling_offsets.bias.view(4, 3, 4, 2)
    torch.testing.assert_close(ring[1, 0], torch.tensor([[0.0, i] for i in (1, 2, 3, 4)]))


def test_gradient_reaches_every_parameter():
    decoder = make_decoder()
    for layer in decoder.transformer.encoder.layers:  # zero at first, which hides the queries
        nn.init.normal_(layer.self_attn.sampling_offsets.weight)
        nn.init.normal_(layer.self_attn.attention_weights.weight)
    mask_features, maps = decoder(make_features())
    loss = sum((level * torch.randn_like(level)).sum() for level in (mask_features, *maps))
    loss.backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_images_of_a_batch_do_not_mix():
    decoder, features = make_decoder(), make_features()
    mask_features, maps = decoder(features)
    second, second_maps = decoder({name: level[1:] for name, level in features.items()})
    torch.testing.assert_close(mask_features[1:], second)
    for level, expected in zip(maps, second_maps, strict=True):
        torch.testing.assert_close(level[1:], expected)


def test_bf16_autocast_keeps_the_residual_stream_in_float32():
    decoder, features = make_decoder(), make_features()
    mask_features, maps = decoder(features)
    with torch.autocast("cpu", torch.bfloat16):
        half_features, half_maps = decoder(features)
    assert all(level.dtype == torch.float32 for level in half_maps)
    for level, expected in zip((half_features, *half_maps), (mask_features, *maps), strict=True):
        assert (level.float() - expected).norm() < 0.03 * expected.norm()


def test_whole_module_in_float64():
    decoder = make_decoder().double()
    features = {name: level.double() for name, level in make_features().items()}
    mask_features, maps = decoder(features)
    assert {level.dtype for level in (mask_features, *maps)} == {torch.float64}


def test_bad_width_is_named():
    with pytest.raises(ValueError, match="embed_dim must be a multiple of 32, got 48"):
        make_decoder(embed_dim=48)
