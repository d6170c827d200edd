"""Scores of an image from overlapping windows, in bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor

ScoreFn = Callable[[Tensor], Tensor]


class SlidingWindow:
    """Averages the scores of windows that overlap, each counting the same.

    The last window of a row or column is moved back to end with the image, so it overlaps more; an
    image smaller than the window is one window, not padded. These are the rules of the official
    ViT-Adapter code, which decide its published numbers.

    Args:
        crop_size: of a window, one number or ``(height, width)``.
        stride: from window to window, one number or ``(down, right)``, at most ``crop_size``.
        batch_size: windows of a row that go through the model together.

    Raises:
        ValueError: a size is not positive, or the stride leaves gaps.
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        stride: int | Sequence[int],
        batch_size: int = 1,
    ) -> None:
        self.crop_size = _pair("crop_size", crop_size)
        self.stride = _pair("stride", stride)
        self.batch_size = batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        for crop, step in zip(self.crop_size, self.stride, strict=True):
            if step > crop:
                raise ValueError(
                    f"stride must be at most crop_size {self.crop_size}, or pixels between the "
                    f"windows are left out; got {self.stride}"
                )

    def __call__(self, score_fn: ScoreFn, images: Tensor) -> Tensor:
        """Scores of every pixel.

        Args:
            score_fn: ``(N, 3, h, w) -> (N, K, h, w)``, for any h and w up to ``crop_size``.
            images: ``(B, 3, H, W)``, normalised.

        Returns:
            ``(B, K, H, W)`` float32.
        """
        bands = self.bands(score_fn, images)
        first = next(bands)
        scores = first.new_empty(*first.shape[:2], *images.shape[-2:])
        top = 0
        for band in chain([first], bands):
            scores[:, :, top : top + band.shape[2]] = band
            top += band.shape[2]
        return scores

    def bands(self, score_fn: ScoreFn, images: Tensor) -> Iterator[Tensor]:
        """The same scores from top to bottom, rows that no later window touches.

        Holds one row of windows, ``4 B K crop_height W`` bytes, whatever H is.

        Args:
            score_fn: as above.
            images: ``(B, 3, H, W)``, normalised.

        Yields:
            ``(B, K, h, W)`` float32, the h of all bands adding up to H. A band is a view that the
            next one overwrites.
        """
        height, width = images.shape[-2:]
        tops = window_starts(height, self.crop_size[0], self.stride[0])
        row_counts = self._counts(height, 0).to(images.device)[:, None]
        column_counts = self._counts(width, 1).to(images.device)
        sums: Tensor | None = None
        for top, next_top in pairwise([*tops, height]):
            for left, scores in self._row_scores(score_fn, images, top):
                if sums is None:
                    sums = scores.new_zeros(*scores.shape[:3], width)
                sums[..., left : left + scores.shape[-1]] += scores
            assert sums is not None, "a row has at least one window"
            finished = sums[:, :, : next_top - top]
            yield finished.div_(row_counts[top:next_top] * column_counts)
            _shift_up(sums, next_top - top)

    def _row_scores(
        self, score_fn: ScoreFn, images: Tensor, top: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Left side and scores ``(B, K, h, w)`` of each window that starts at row ``top``."""
        crop_height, crop_width = self.crop_size
        strip = images[:, :, top : top + crop_height]
        lefts = window_starts(images.shape[-1], crop_width, self.stride[1])
        for first in range(0, len(lefts), self.batch_size):
            chunk = lefts[first : first + self.batch_size]
            crops = torch.cat([strip[..., left : left + crop_width] for left in chunk])
            yield from zip(chunk, score_fn(crops).float().chunk(len(chunk)), strict=True)

    def _counts(self, size: int, axis: int) -> Tensor:
        """``(size,)`` float32, in how many windows a row or column lies."""
        counts = torch.zeros(size)
        for start in window_starts(size, self.crop_size[axis], self.stride[axis]):
            counts[start : start + self.crop_size[axis]] += 1
        return counts


def window_starts(size: int, crop: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last is moved back to end with the side."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride, size - crop), 0) for index in range(count)]


def _shift_up(sums: Tensor, rows: int) -> None:
    """Moves ``(B, K, h, W)`` up by some rows and clears the rest, a class at a time."""
    kept = sums.shape[2] - rows
    for plane in sums.unbind(1):
        plane[:, :kept] = plane[:, rows:].clone()  # the two ranges may overlap
    sums[:, :, kept:] = 0


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"{name} must be a positive number of pixels, or two, got {value}")
    return pair
