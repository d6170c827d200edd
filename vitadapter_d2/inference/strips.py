"""Resizing of scores that are too large to be held at once, some rows at a time."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vitadapter_d2.inference.resize_rules import Size

# Rows are handled together up to this many pixels: 19 MiB for 150 classes. Less costs more calls,
# more costs memory and, where each result is fresh memory, more time.
_STRIP_PIXELS = 2**15


def strips_of(target: Size, sources: Sequence[Size]) -> list[slice]:
    """Cuts the rows of a map into strips, small there and in every map that it is made from."""
    height = target[0]
    largest = max(rows * columns for rows, columns in (target, *sources))
    step = max(1, _STRIP_PIXELS * height // largest)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def resize_strips(
    bands: Iterator[Tensor], source: Size, target: Size, strips: Sequence[slice]
) -> Iterator[Tensor]:
    """Bilinear resize (``align_corners=False``) of scores that come and go from top to bottom.

    Equals ``F.interpolate`` of the whole map, but holds little more than a strip of it.

    Args:
        bands: ``(K, h, W)`` float32, one below the other; each is read before the next is asked
            for. They may be wider than the source and go on below it; what is more is dropped.
        source: ``(height, width)`` of the map.
        target: ``(height, width)`` wanted.
        strips: rows of the target, in order, that cover it without gaps.

    Yields:
        ``(K, rows, width)`` for each of ``strips``.
    """
    above, below, weight = _row_taps(source[0], target[0])
    pieces = (piece for band in bands for piece in _cut(band[..., : source[1]]))
    held = next(pieces).clone()
    first = 0  # the row of the source that `held` starts with
    for strip in strips:
        passed = min(int(above[strip.start]) - first, held.shape[1])
        held, first = held[:, passed:], first + passed
        while first + held.shape[1] <= below[strip.stop - 1]:
            held = torch.cat([held, next(pieces)], dim=1)
        device = held.device
        rows = torch.lerp(
            held[:, (above[strip] - first).to(device)],
            held[:, (below[strip] - first).to(device)],
            weight[strip, None].to(device),
        )
        if target[1] != source[1]:
            rows = F.interpolate(rows[None], (rows.shape[1], target[1]), mode="bilinear")[0]
        yield rows


def _cut(band: Tensor) -> tuple[Tensor, ...]:
    return band.split(max(1, _STRIP_PIXELS // band.shape[2]), dim=1)


def _row_taps(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of the target the two rows of the source, and the weight of the second."""
    # In float32, as in F.interpolate: at large sizes the rounding shows in the fifth digit.
    scale = torch.tensor(source / target)
    place = ((torch.arange(target) + 0.5) * scale - 0.5).clamp(0, source - 1)
    above = place.floor()
    # Where the weight is zero the second row is not waited for.
    return above.long(), place.ceil().long(), place - above
