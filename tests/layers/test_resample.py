import torch
import torch.nn.functional as F

from vitadapter_d2.layers.resample import resize_patch_kernel, resize_position_embedding


def test_equal_grids_return_the_table_itself():
    table = torch.randn(1, 12, 8)
    assert resize_position_embedding(table, (3, 4), (3, 4)) is table


def test_positions_are_resized_bicubically_without_antialias():
    table = torch.randn(1, 64, 2)
    resized = resize_position_embedding(table, (8, 8), (3, 5))
    grid = table.view(1, 8, 8, 2).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(3, 5), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized.view(3, 5, 2), expected[0].permute(1, 2, 0))
    assert not torch.allclose(
        resized, resize_position_embedding(table, (8, 8), (3, 5), antialias=True), atol=1e-2
    )


def test_constant_patch_kernel_stays_constant():
    resized = resize_patch_kernel(torch.full((4, 3, 14, 14), 0.5), (16, 16))
    torch.testing.assert_close(resized, torch.full((4, 3, 16, 16), 0.5))
