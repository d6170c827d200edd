import math

import pytest
import torch
from dino_parts import make_levels

from vitadapter_d2.layers.position_encoding import sine_position_encoding
from vitadapter_d2.modeling.dino.coordinates import encode_coordinates, inverse_sigmoid


def test_waves_follow_their_definition():
    encoded = encode_coordinates(torch.tensor([[0.3, 0.7]]), dim=6, temperature=100.0)
    assert encoded.shape == (1, 12)
    for coordinate, value in enumerate((0.3, 0.7)):
        for channel in range(6):
            phase = 2 * math.pi * value / 100.0 ** ((channel // 2) / 3)
            expected = math.cos(phase) if channel % 2 else math.sin(phase)
            assert encoded[0, 6 * coordinate + channel] == pytest.approx(expected, abs=1e-6)


def test_cell_ends_give_the_sine_positions_of_an_image_alone():
    levels = make_levels([(96, 160), (64, 96)], (96, 160))
    encoded = encode_coordinates(levels.cell_ends.flip(-1), 16, 20.0)[:, : 12 * 20]
    alone = sine_position_encoding((12, 20), 32, temperature=20.0)
    torch.testing.assert_close(encoded[0], alone, atol=1e-5, rtol=0)
    alone = sine_position_encoding((8, 12), 32, temperature=20.0).view(8, 12, 32)
    inside = encoded[1].view(12, 20, 32)[:8, :12]
    torch.testing.assert_close(inside, alone, atol=1e-5, rtol=0)


def test_inverse_sigmoid_is_bounded():
    values = torch.tensor([0.0, 0.2, 0.9, 1.0])
    logits = inverse_sigmoid(values)
    torch.testing.assert_close(logits[1:3].sigmoid(), values[1:3])
    torch.testing.assert_close(logits[[0, 3]].sigmoid(), torch.tensor([1e-3, 1 - 1e-3]))
