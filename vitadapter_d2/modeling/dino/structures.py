"""What the parts of DINO hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vitadapter_d2.layers.levels import Shapes, level_centers


@dataclass(frozen=True)
class BoxPrediction:
    """Predictions of L supervised outputs.

    Attributes:
        logits: ``(L, B, Q, K)``, one independent score for each class.
        boxes: ``(L, B, Q, 4)`` float32, cxcywh in (0, 1) of each image's own size.
    """

    logits: Tensor
    boxes: Tensor

    def split_queries(self, first: int) -> tuple["BoxPrediction", "BoxPrediction"]:
        """The first queries, and the others."""
        return (
            BoxPrediction(self.logits[:, :, :first], self.boxes[:, :, :first]),
            BoxPrediction(self.logits[:, :, first:], self.boxes[:, :, first:]),
        )


@dataclass(frozen=True)
class BoxTargets:
    """Ground truth of a batch, all images' boxes one after the other.

    Attributes:
        labels: ``(N,)`` int64 in [0, K).
        boxes: ``(N, 4)`` float32, cxcywh in [0, 1] of each image's own size.
        counts: number of boxes of each image; its sum is N.
    """

    labels: Tensor
    boxes: Tensor
    counts: tuple[int, ...]

    @cached_property
    def image_index(self) -> Tensor:
        """``(N,)`` int64, the image of each box."""
        images = [image for image, count in enumerate(self.counts) for _ in range(count)]
        return torch.tensor(images, dtype=torch.int64, device=self.labels.device)

    @cached_property
    def slot(self) -> Tensor:
        """``(N,)`` int64, the number of each box within its image."""
        slots = [slot for count in self.counts for slot in range(count)]
        return torch.tensor(slots, dtype=torch.int64, device=self.labels.device)


@dataclass(frozen=True)
class PaddedLevels:
    """Where images of different sizes lie in the cells of a padded batch.

    An image covers a cell if the cell begins inside of it. Points and boxes are relative to the
    image; ``in_batch`` makes them relative to the padded maps.

    Attributes:
        shapes: ``(H_l, W_l)`` of the L maps.
        ratios: ``(B, L, 2)`` float32, width and height of the image over those of the map.
        centers: ``(B, S, 2)`` float32, ``(x, y)`` of every cell, above 1 beyond the image.
        cell_ends: ``(B, S, 2)`` float32, right and lower side of every cell.
        padding: ``(B, S)`` bool, True beyond the image; None if no map has such cells.
    """

    shapes: Shapes
    ratios: Tensor
    centers: Tensor
    cell_ends: Tensor
    padding: Tensor | None

    @classmethod
    def of(
        cls,
        shapes: Shapes,
        strides: Sequence[int],
        image_sizes: Sequence[tuple[int, int]],
        device: torch.device | str | None = None,
    ) -> "PaddedLevels":
        """Lays out a batch.

        Args:
            shapes: ``(H_l, W_l)`` of the maps.
            strides: pixels for each cell of the maps.
            image_sizes: ``(H, W)`` of each image without padding.
            device: where the tensors lie.
        """
        covered = [
            [
                (min(-(-width // stride), shape[1]), min(-(-height // stride), shape[0]))
                for shape, stride in zip(shapes, strides, strict=True)
            ]
            for height, width in image_sizes
        ]
        is_padded = any(cells[::-1] != shape for image in covered for cells, shape in
                        zip(image, shapes, strict=True))  # fmt: skip
        cells = torch.tensor(covered, dtype=torch.float32, device=device)  # (B, L, 2)
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=device)
        ratios = cells / sizes
        lengths = torch.tensor([height * width for height, width in shapes], device=device)
        total = sum(height * width for height, width in shapes)
        of_token = torch.repeat_interleave(
            torch.arange(len(shapes), device=device), lengths, output_size=total
        )
        centers = level_centers(shapes, device)[:, :, 0] / ratios[:, of_token]
        cell_ends = centers + 0.5 / cells[:, of_token]
        padding = (centers > 1).any(-1) if is_padded else None
        return cls(shapes, ratios, centers, cell_ends, padding)

    def in_batch(self, references: Tensor) -> Tensor:
        """``(B, Q, 2 or 4)`` points or boxes to ``(B, Q, L, 2 or 4)``, relative to each map."""
        ratios = self.ratios.repeat(1, 1, references.shape[-1] // 2)
        return references[:, :, None] * ratios[:, None]
