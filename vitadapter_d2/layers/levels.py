"""Feature levels as one token sequence and back, and the points their cells stand for."""

from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Concatenates the cells of several maps to one sequence, level after level, row by row.

    Args:
        maps: L maps ``(B, C, H_l, W_l)``.

    Returns:
        ``(B, sum of H_l * W_l, C)``.
    """
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)


def split_levels(tokens: Tensor, shapes: Shapes) -> list[Tensor]:
    """Inverse of :func:`flatten_levels`.

    Args:
        tokens: ``(B, sum of H_l * W_l, C)``.
        shapes: the ``(H_l, W_l)`` of every level.

    Returns:
        L maps ``(B, C, H_l, W_l)``, views of ``tokens`` (channels last in memory).
    """
    levels = tokens.split([height * width for height, width in shapes], dim=1)
    return [
        level.transpose(1, 2).unflatten(2, shape)
        for level, shape in zip(levels, shapes, strict=True)
    ]


def level_centers(
    shapes: Shapes, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Centres of the cells of all levels, in image coordinates.

    Args:
        shapes: the ``(H_l, W_l)`` of every level.
        device: where the result lies.
        dtype: its type; half precision would be off by half a pixel at 160 columns.

    Returns:
        ``(1, sum of H_l * W_l, 1, 2)``, ``(x, y)`` in (0, 1), in the order of
        :func:`flatten_levels`; the third axis broadcasts over the levels that are sampled.
    """
    centers = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        centers.append(torch.stack((x, y), dim=-1).flatten(0, 1))
    return torch.cat(centers)[None, :, None]
