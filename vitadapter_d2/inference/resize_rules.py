"""How an image is resized for the network: the rules of the published testing protocols."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


class ResizeRule(ABC):
    """A rule from the size of an image to the sizes that it takes on its way to the network."""

    @abstractmethod
    def steps(self, size: Size, ratio: float = 1.0) -> tuple[Size, ...]:
        """``(height, width)`` after each resize, for an image of ``size``; all at least 1."""

    def network_input(self, image: Tensor, normalize: Callable[[Tensor], Tensor]) -> Tensor:
        """Normalises a resized raw image ``(3, h, w)``; may pad it at the right and bottom."""
        return normalize(image)


class NativeSize(ResizeRule):
    """Sizes are those of the image, times the ratio."""

    def steps(self, size: Size, ratio: float = 1.0) -> tuple[Size, ...]:
        """One size, rounded down."""
        return (_at_least_1(int(size[0] * ratio), int(size[1] * ratio)),)


@dataclass(frozen=True)
class KeepRatio(ResizeRule):
    """The largest size inside of ``scale``; then, if asked for, sides rounded up to a multiple.

    Rounding up is a second resize that changes the proportions a little, as in the official
    configurations.

    Attributes:
        scale: limits of the two sides, in either order; the ratio multiplies both.
        divisor: of the multiple; None does not round.
    """

    scale: Sequence[int]
    divisor: int | None = None

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if self.divisor is not None and self.divisor < 1:
            raise ValueError(f"divisor must be None or at least 1, got {self.divisor}")

    def steps(self, size: Size, ratio: float = 1.0) -> tuple[Size, ...]:
        """One size, or two."""
        fitted = _fit(size, [int(side * ratio) for side in self.scale])
        if self.divisor is None:
            return (fitted,)
        height, width = (-(-side // self.divisor) * self.divisor for side in fitted)
        return fitted, (height, width)


@dataclass(frozen=True)
class ClampedToCrop(ResizeRule):
    """The short side is that of ``scale`` times the ratio, but never below the crop.

    The long side follows without a limit. Small ratios therefore give the same size, which the
    official multi-scale protocol counts each time.

    Attributes:
        scale: two sides, of which the shorter counts.
        crop_size: lower limit of the short side.
    """

    scale: Sequence[int]
    crop_size: int

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if self.crop_size < 1:
            raise ValueError(f"crop_size must be at least 1, got {self.crop_size}")

    def steps(self, size: Size, ratio: float = 1.0) -> tuple[Size, ...]:
        """One size."""
        height, width = size
        short = max(min(int(side * ratio) for side in self.scale), self.crop_size)
        if height > width:
            return (_fit(size, (short * height / width, short)),)
        return (_fit(size, (short, short * width / height)),)


@dataclass(frozen=True)
class PaddedShortSide(ResizeRule):
    """Another rule, and zeros at the right and bottom up to a size; scores there are dropped.

    Attributes:
        resize: the rule of the sizes.
        size: both sides have at least this.
        is_padded_raw: the zeros are raw values, black, rather than normalised ones, the mean
            colour. The official configurations for BEiT pad raw, that for BEiTv2 does not.
    """

    resize: ResizeRule
    size: int
    is_padded_raw: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def steps(self, size: Size, ratio: float = 1.0) -> tuple[Size, ...]:
        """Those of ``resize``."""
        return self.resize.steps(size, ratio)

    def network_input(self, image: Tensor, normalize: Callable[[Tensor], Tensor]) -> Tensor:
        """``(3, max(h, size), max(w, size))``."""
        height, width = image.shape[-2:]
        margins = (0, max(0, self.size - width), 0, max(0, self.size - height))
        if self.is_padded_raw:
            return normalize(F.pad(image, margins))
        return F.pad(normalize(image), margins)


def as_array(image: Tensor) -> np.ndarray:
    """``(3, H, W)`` to ``(H, W, 3)``, uint8 or float32.

    Raises:
        ValueError: the image has another shape or is empty.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (3, H, W), not empty, got {tuple(image.shape)}")
    image = image.cpu() if image.dtype == torch.uint8 else image.float().cpu()
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def resize_image(image: np.ndarray, steps: Sequence[Size]) -> np.ndarray:
    """Resizes bilinearly through some sizes, as OpenCV does: no antialias, uint8 in between.

    Args:
        image: ``(H, W, C)`` uint8 or float32.
        steps: sizes ``(height, width)``.

    Returns:
        ``(h, w, C)`` of the last size.
    """
    for height, width in steps:
        if image.shape[:2] != (height, width):
            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            image = resized.reshape(height, width, -1)
    return image


def _fit(size: Size, limits: Sequence[float]) -> Size:
    """The largest size of the same proportions inside of the limits, to the nearest pixel."""
    factor = min(max(limits) / max(size), min(limits) / min(size))
    return _at_least_1(int(size[0] * factor + 0.5), int(size[1] * factor + 0.5))


def _at_least_1(height: int, width: int) -> Size:
    return max(height, 1), max(width, 1)


def _check_scale(scale: Sequence[int]) -> None:
    if not isinstance(scale, Sequence) or len(scale) != 2 or min(scale) < 1:
        raise ValueError(f"scale must be two positive numbers of pixels, got {scale}")
