"""Tokens of several levels grouped by the rows or columns of the image they lie in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitadapter_d2.layers.levels import Shapes


@dataclass(frozen=True)
class Regions:
    """A partition of a token sequence into K regions, padded to the size T of the largest.

    Attributes:
        index: ``(K, T)`` int64, the tokens of every region; N, their number, where there is none.
        position: ``(N,)`` int64, where each token is in the flat ``index``.
        is_padded: whether there are regions smaller than T.
    """

    index: Tensor
    position: Tensor
    is_padded: bool

    @property
    def is_token(self) -> Tensor:
        """``(K, T)`` bool, False where a region is padded."""
        return self.index < len(self.position)

    def gather(self, tokens: Tensor) -> Tensor:
        """``(B, N, ...)`` -> ``(B * K, T, ...)``, zeros where there is no token."""
        if self.is_padded:
            tokens = torch.cat((tokens, torch.zeros_like(tokens[:, :1])), dim=1)
        regions = tokens.index_select(1, self.index.flatten())
        return regions.unflatten(1, self.index.shape).flatten(0, 1)

    def scatter(self, regions: Tensor, batch: int) -> Tensor:
        """Inverse of :meth:`gather`, ``(B * K, T, ...)`` -> ``(B, N, ...)``."""
        flat = regions.unflatten(0, (batch, -1)).flatten(1, 2)
        return flat.index_select(1, self.position)


def line_regions(
    shapes: Shapes, axis: int, groups: Sequence[int], device: torch.device | str | None = None
) -> Regions:
    """Puts every row (or column) of every level into the group of the band its centre lies in.

    Args:
        shapes: the ``(H, W)`` of every level, each at least as long as there are bands.
        axis: 0 groups rows, 1 columns.
        groups: the group of each band; the bands cut the image into equal parts.
        device: where the result lies.

    Returns:
        One region per group; regions of two calls with the same ``groups`` are the same parts of
        the image.
    """
    num_groups = max(groups) + 1
    num_tokens = sum(height * width for height, width in shapes)
    parts, is_padded, start = [], False, 0
    for shape in shapes:
        lines = _lines_of_groups(shape[axis], groups, num_groups)
        longest = max(map(len, lines))
        is_padded |= any(len(line) < longest for line in lines)
        table = torch.tensor(
            [line + [-1] * (longest - len(line)) for line in lines], device=device
        )  # (K, lines)
        across = torch.arange(shape[1 - axis], device=device)
        line_stride, across_stride = (shape[1], 1) if axis == 0 else (1, shape[1])
        tokens = start + table[..., None] * line_stride + across * across_stride
        parts.append(torch.where(table[..., None] < 0, num_tokens, tokens).flatten(1))
        start += shape[0] * shape[1]
    index = torch.cat(parts, dim=1)
    # The paddings all go to one place too many, which is cut off.
    position = torch.empty(num_tokens + 1, dtype=torch.int64, device=device)
    position[index.flatten()] = torch.arange(index.numel(), device=device)
    return Regions(index, position[:num_tokens], is_padded)


def _lines_of_groups(length: int, groups: Sequence[int], num_groups: int) -> list[list[int]]:
    lines: list[list[int]] = [[] for _ in range(num_groups)]
    for line in range(length):
        band = (2 * line + 1) * len(groups) // (2 * length)
        lines[groups[band]].append(line)
    return lines
