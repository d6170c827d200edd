"""The anchors of a batch and what they have to learn from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vitadapter_d2.layers.distributed import mean_over_ranks


@dataclass(frozen=True)
class AnchorGrid:
    """One anchor for each cell of every level, level after level, row by row.

    Attributes:
        boxes: ``(N, 4)`` float32, x0 y0 x1 y1 in pixels.
        shapes: ``(H, W)`` of each level.
        level_strides: pixels between the cells of each level.
    """

    boxes: Tensor
    shapes: Sequence[tuple[int, int]]
    level_strides: Sequence[int]

    @cached_property
    def level_sizes(self) -> list[int]:
        """Cells of each level."""
        return [height * width for height, width in self.shapes]

    @cached_property
    def strides(self) -> Tensor:
        """``(N,)`` float32, the stride of each anchor's level."""
        levels = zip(self.level_sizes, self.level_strides, strict=True)
        return torch.cat([self.boxes.new_full((size,), stride) for size, stride in levels])

    def inside(self, height: int, width: int) -> tuple[Tensor, list[int]]:
        """The cells of an image that is smaller than the batch.

        Args:
            height: pixels that count, from the top.
            width: pixels that count, from the left.

        Returns:
            Indices of the anchors ``(M,)`` int64, and how many each level has.
        """
        indices, start = [], 0
        for (rows, columns), stride in zip(self.shapes, self.level_strides, strict=True):
            cells = torch.arange(rows * columns, device=self.boxes.device).view(rows, columns)
            part = cells[: math.ceil(height / stride), : math.ceil(width / stride)]
            indices.append(part.flatten() + start)
            start += rows * columns
        return torch.cat(indices), [len(part) for part in indices]


@dataclass(frozen=True)
class DenseTargets:
    """What the B * N cells of a batch should say, image after image.

    Attributes:
        inside: ``(B * N,)`` bool, cells that count.
        rows: ``(P,)`` int64, the positive ones among all.
        anchors: ``(P,)`` int64, their anchors in the grid.
        classes: ``(P,)`` int64.
        boxes: ``(P, 4)`` float32, x0 y0 x1 y1 in pixels.
        num_positive: their number, an image without any counted as one.
    """

    inside: Tensor
    rows: Tensor
    anchors: Tensor
    classes: Tensor
    boxes: Tensor
    num_positive: int

    def normalizers(self, weight: Tensor) -> Tensor:
        """Number of positives and sum of their weights, means over the processes, at least 1.

        Args:
            weight: ``(P,)`` float32.

        Returns:
            ``(2,)`` float32, without gradient.
        """
        total = weight.detach().sum()
        values = torch.stack((total.new_tensor(self.num_positive), total))
        return mean_over_ranks(values).clamp(min=1)
