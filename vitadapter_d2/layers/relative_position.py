"""Relative-position biases of attention: from a table to a matrix, and tables of other sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitadapter_d2.layers.resample import Grid


def relative_bias(table: Tensor, grid: Grid) -> Tensor:
    """Bias of every pair of cells, without an index table.

    Args:
        table: ``(2 H - 1, 2 W - 1, M)``, entry ``(dy + H - 1, dx + W - 1)`` for a query that lies
            ``(dy, dx)`` from its key.
        grid: ``(H, W)``.

    Returns:
        ``(M, H * W, H * W)``, queries before keys.
    """
    height, width = grid
    # A window of the mirrored table holds, for one query, the biases of all keys in order.
    windows = table.flip(0, 1).unfold(0, height, 1).unfold(1, width, 1)  # (H, W, M, H, W)
    by_query = windows.flip(0, 1).permute(2, 0, 1, 3, 4)
    return by_query.flatten(3, 4).flatten(1, 2)


def resize_relative_table(table: Tensor, grid: Grid) -> Tensor:
    """Bicubic resize of a table ``(2 h - 1, 2 w - 1, M)`` to ``(2 H - 1, 2 W - 1, M)``."""
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    if tuple(table.shape[:2]) == size:
        return table
    maps = table.permute(2, 0, 1)[None].float()
    resized = F.interpolate(maps, size=size, mode="bicubic", align_corners=False)
    return resized[0].permute(1, 2, 0).to(table.dtype)


def pad_relative_bias(bias: Tensor, extra: Tensor) -> Tensor:
    """Adds a class token in front.

    Args:
        bias: ``(M, N, N)``.
        extra: ``(3, M)``: class token to patches, patches to class token, class token to itself.

    Returns:
        ``(M, 1 + N, 1 + N)``.
    """
    heads, count, _ = bias.shape
    to_patches, to_class, to_itself = extra[..., None, None]  # (M, 1, 1) each
    left = torch.cat((to_itself, to_class.expand(heads, count, 1)), dim=1)
    right = torch.cat((to_patches.expand(heads, 1, count), bias), dim=1)
    return torch.cat((left, right), dim=2)
