"""Fixed sine position encoding of a map's cells."""

import math

import torch
from torch import Tensor


def sine_position_encoding(
    shape: tuple[int, int],
    embed_dim: int,
    device: torch.device | str | None = None,
    temperature: float = 10000.0,
) -> Tensor:
    """Encodes row and column of every cell by sines and cosines of falling frequency.

    Rows and columns count from 1 and are scaled so that the last one lies at 2 pi. The first half
    of the channels is the row, the second the column; sine on even, cosine on odd channels.

    Reference: DETR, Appendix A.4, arXiv 2005.12872, in the normalised form of Mask2Former,
    arXiv 2112.01527.

    Args:
        shape: ``(H, W)`` of the map.
        embed_dim: channels C, a multiple of 4.
        device: where the result lies.
        temperature: ratio of the highest to the lowest frequency.

    Returns:
        ``(H * W, C)`` float32, cells row by row.

    Raises:
        ValueError: if ``embed_dim`` is not a positive multiple of 4.
    """
    if embed_dim <= 0 or embed_dim % 4:
        raise ValueError(f"embed_dim must be a positive multiple of 4, got {embed_dim}")
    height, width = shape
    exponents = torch.arange(embed_dim // 4, device=device, dtype=torch.float32) / (embed_dim // 4)
    periods = temperature**exponents  # (C / 4,)

    def encode(length: int) -> Tensor:
        positions = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        phases = positions[:, None] * (2 * math.pi / (length + 1e-6)) / periods
        return torch.stack((phases.sin(), phases.cos()), dim=-1).flatten(1)  # (length, C / 2)

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width).expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)
