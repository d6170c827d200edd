import math

import pytest
import torch

from vitadapter_d2.layers.position_encoding import sine_position_encoding


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2)])
def test_values_follow_the_formula_cell_by_cell(shape):
    height, width = shape
    embed_dim = 12
    half = embed_dim // 2
    encoding = sine_position_encoding(shape, embed_dim).view(height, width, embed_dim)
    for row in range(height):
        for column in range(width):
            for channel in range(embed_dim):
                index, last = (row, height) if channel < half else (column, width)
                position = (index + 1) / (last + 1e-6) * 2 * math.pi
                within = channel % half
                angle = position / 10000 ** (2 * (within // 2) / half)
                expected = math.cos(angle) if within % 2 else math.sin(angle)
                value = encoding[row, column, channel].item()
                assert value == pytest.approx(expected, abs=1e-5)


def test_encoding_is_float32_even_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert sine_position_encoding((2, 3), 8).dtype == torch.float32


@pytest.mark.parametrize("embed_dim", [0, 6])
def test_bad_width_is_named(embed_dim):
    with pytest.raises(ValueError, match=f"multiple of 4, got {embed_dim}"):
        sine_position_encoding((2, 2), embed_dim)
