"""Resizing of BEiT's relative-position tables as the official loaders do it."""

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from vitadapter_d2.layers.relative_position import resize_relative_table as resize_bicubic
from vitadapter_d2.layers.resample import Grid


def geometric_positions(source: int, target: int) -> np.ndarray:
    """Source coordinates that lie denser near the centre.

    Their spacing grows by a constant factor, found so that ``source // 2`` steps reach as far as
    ``target // 2`` unit steps.

    Args:
        source: side of the table, odd.
        target: side wanted, odd, larger than ``source``.

    Returns:
        ``(source,)`` increasing, 0 in the middle.
    """
    steps = np.arange(source // 2)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2.0
        if (factor**steps).sum() > target // 2:
            high = factor
        else:
            low = factor
    distances = np.cumsum(factor**steps)
    return np.concatenate((-distances[::-1], [0.0], distances))


def resize_relative_table(table: Tensor, target: int, num_extra: int = 3) -> Tensor:
    """Resizes a square table by a cubic spline over geometrically spaced source positions.

    Args:
        table: ``(side * side + num_extra, M)``, the extra rows of the class token last.
        target: side wanted, odd: twice the window minus one.
        num_extra: rows that are kept as they are.

    Returns:
        ``(target * target + num_extra, M)`` in ``table``'s type.

    Raises:
        ValueError: the table is not square.
    """
    side = round((len(table) - num_extra) ** 0.5)
    if side * side + num_extra != len(table):
        raise ValueError(f"a table of {len(table)} rows, {num_extra} of them extra, is not square")
    if side == target:
        return table
    positions = geometric_positions(side, target)
    wanted = np.arange(-(target // 2), target // 2 + 1)
    extra = table[side * side :]
    heads = table[: side * side].unflatten(0, (side, side)).double().numpy(force=True)
    resized = [
        RectBivariateSpline(positions, positions, heads[..., head])(wanted, wanted)
        for head in range(heads.shape[-1])
    ]
    grid = torch.from_numpy(np.stack(resized, axis=-1)).flatten(0, 1)
    return torch.cat((grid.to(table), extra))


def fit_relative_table(table: Tensor, grid: Grid) -> Tensor:
    """Resizes a table that is to be stored: square ones as above, others bicubic.

    Args:
        table: ``(2 h - 1, 2 w - 1, M)``; it may be on the meta device.
        grid: ``(H, W)`` wanted.

    Returns:
        ``(2 H - 1, 2 W - 1, M)``.
    """
    (height, width), side = table.shape[:2], 2 * grid[0] - 1
    # A cubic spline needs four points.
    if table.is_meta or height != width or grid[0] != grid[1] or height < 4:
        return resize_bicubic(table, grid)
    return resize_relative_table(table.flatten(0, 1), side, num_extra=0).unflatten(0, (side, side))
