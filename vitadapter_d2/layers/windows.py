"""Token sequences cut into square windows and put together again."""

import torch.nn.functional as F
from torch import Tensor

from vitadapter_d2.layers.resample import Grid


def partition_windows(tokens: Tensor, grid: Grid, window_size: int) -> Tensor:
    """Cuts a map of tokens into windows, zero-padded at the right and bottom.

    Args:
        tokens: ``(B, H * W, C)``.
        grid: ``(H, W)``.
        window_size: side w of a window.

    Returns:
        ``(B * ceil(H / w) * ceil(W / w), w * w, C)``.
    """
    batch, _, channels = tokens.shape
    height, width = grid
    padding = (0, 0, 0, -width % window_size, 0, -height % window_size)
    padded = F.pad(tokens.unflatten(1, grid), padding)  # (B, H', W', C)
    windows = padded.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    return windows.transpose(2, 3).reshape(-1, window_size * window_size, channels)


def merge_windows(windows: Tensor, grid: Grid, window_size: int) -> Tensor:
    """Inverse of :func:`partition_windows`; the padding is cut off.

    Args:
        windows: ``(B * ceil(H / w) * ceil(W / w), w * w, C)``.
        grid: ``(H, W)``.
        window_size: side w of a window.

    Returns:
        ``(B, H * W, C)``.
    """
    height, width = grid
    rows, columns = -(-height // window_size), -(-width // window_size)
    tiles = windows.unflatten(1, (window_size, window_size)).unflatten(0, (-1, rows, columns))
    padded = tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, H', W', C)
    return padded[:, :height, :width].flatten(1, 2)
