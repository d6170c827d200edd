import pytest
import torch
from timm.models.beit import gen_relative_position_index

from vitadapter_d2.layers.relative_position import (
    pad_relative_bias,
    relative_bias,
    resize_relative_table,
)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6)])
def test_bias_equals_an_indexed_table(grid):
    rows = torch.randn((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, 2)
    index = gen_relative_position_index(grid)
    expected = rows[index].permute(2, 0, 1)
    table = rows[:-3].unflatten(0, (2 * grid[0] - 1, 2 * grid[1] - 1))
    bias = relative_bias(table, grid)
    torch.testing.assert_close(bias, expected[:, 1:, 1:])
    torch.testing.assert_close(pad_relative_bias(bias, rows[-3:]), expected)


def test_resizing_keeps_a_constant_table():
    table = torch.full((5, 7, 2), 0.25)
    torch.testing.assert_close(resize_relative_table(table, (6, 2)), torch.full((11, 3, 2), 0.25))
    assert resize_relative_table(table, (3, 4)) is table
