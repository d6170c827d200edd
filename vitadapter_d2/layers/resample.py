"""Resizing of learned tables: position embeddings and patch projections."""

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resize_position_embedding(
    table: Tensor, source: Grid, target: Grid, antialias: bool = False
) -> Tensor:
    """Resizes a grid of position embeddings, bicubic, ``align_corners=False``.

    Released ViT-Adapter weights were trained without antialiasing; timm's own models use it.

    Args:
        table: ``(1, source_h * source_w, C)`` float.
        source: ``(H, W)`` of the stored grid.
        target: ``(H, W)`` of the grid wanted.
        antialias: low-pass when shrinking, as timm does.

    Returns:
        ``(1, target_h * target_w, C)``, ``table`` itself when the grids agree.
    """
    if source == target:
        return table
    grid = table.transpose(1, 2).unflatten(2, source)  # (1, C, H, W)
    # Half precision loses too much in bicubic weights and is not there on every device.
    resized = F.interpolate(
        grid.float(), size=target, mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


def resize_patch_kernel(weight: Tensor, size: Grid) -> Tensor:
    """Resizes a patch projection's kernel, bilinear, as the official DINOv2 conversion does.

    Args:
        weight: ``(C, in_channels, h, w)`` float.
        size: kernel size wanted.

    Returns:
        ``(C, in_channels, *size)``.
    """
    if tuple(weight.shape[-2:]) == tuple(size):
        return weight
    return F.interpolate(weight, size=size, mode="bilinear", align_corners=False)
