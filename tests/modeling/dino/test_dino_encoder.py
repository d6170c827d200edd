import torch
from dino_parts import STRIDES, C, disturb, make_encoder, make_levels

from vitadapter_d2.layers.position_encoding import sine_position_encoding


def make_maps(levels, batch):
    return [torch.randn(batch, C, height, width) for height, width in levels.shapes]


def test_it_is_the_plain_deformable_encoder_where_nothing_is_padded():
    encoder = disturb(make_encoder(num_layers=1))
    levels = make_levels([(96, 160)], (96, 160))
    maps = make_maps(levels, 1)
    plain = encoder.layers[0]
    positions = [
        sine_position_encoding(shape, C, temperature=20.0) + embed
        for shape, embed in zip(levels.shapes, encoder.level_embed, strict=True)
    ]
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
    expected = plain(tokens, torch.cat(positions), levels.centers[:, :, None], levels.shapes)
    torch.testing.assert_close(encoder(maps, levels), expected, atol=1e-5, rtol=1e-5)


def test_an_image_is_encoded_as_if_it_were_alone():
    encoder = disturb(make_encoder())
    batch = make_levels([(96, 160), (64, 96)], (96, 160))
    maps = make_maps(batch, 2)
    alone = make_levels([(64, 96)], (64, 96))
    cut = [
        level[1:, :, : 64 // stride, : -(-96 // stride)]
        for level, stride in zip(maps, STRIDES, strict=True)
    ]
    together = encoder(maps, batch)[1][~batch.padding[1]]
    torch.testing.assert_close(together, encoder(cut, alone)[0], atol=1e-5, rtol=1e-5)


def test_what_lies_in_the_padding_changes_nothing_inside():
    encoder = disturb(make_encoder())
    levels = make_levels([(96, 160), (64, 96)], (96, 160))
    maps = make_maps(levels, 2)
    before = encoder(maps, levels)
    maps[0][1, :, 8:] = 100.0
    maps[3][1, :, :, 2] = -100.0
    after = encoder(maps, levels)
    torch.testing.assert_close(after[~levels.padding], before[~levels.padding])
    assert not torch.equal(after, before)
