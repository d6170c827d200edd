import pytest
import torch

from vitadapter_d2.layers.windows import merge_windows, partition_windows


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (1, 9), (3, 2)])
def test_merge_is_the_inverse_of_partition(grid):
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    windows = partition_windows(tokens, grid, 4)
    assert windows.shape == (2 * -(-grid[0] // 4) * -(-grid[1] // 4), 16, 3)
    torch.testing.assert_close(merge_windows(windows, grid, 4), tokens, rtol=0, atol=0)


def test_windows_are_tiles_of_the_map_padded_right_and_bottom():
    grid = torch.arange(1, 16).view(1, 15, 1).float()  # 3 x 5
    windows = partition_windows(grid, (3, 5), 2)
    assert windows.shape == (6, 4, 1)
    assert windows[0, :, 0].tolist() == [1, 2, 6, 7]
    assert windows[2, :, 0].tolist() == [5, 0, 10, 0]
    assert windows[5, :, 0].tolist() == [15, 0, 0, 0]
