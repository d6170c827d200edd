"""Augmentations that Detectron2 lacks: photometric distortion, channel shuffle, padding.

All draw from numpy's global generator, which Detectron2 seeds in each worker. Large-scale jitter
is Detectron2's ``ResizeScale`` and ``FixedSizeCrop``, a random brightness its
``RandomBrightness``, a crop without a dominating class its ``RandomCrop_CategoryAreaConstraint``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np


class PhotometricDistortion(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each applied with probability one half.

    Reference: Liu et al., SSD: Single Shot MultiBox Detector, Sec. 2.2 "Data augmentation" (with
    the ranges of the released code), arXiv:1512.02325. Contrast comes either before or after
    saturation and hue. Amounts and rounding are those that the published semantic models were
    trained with (mmsegmentation's); facebookresearch/Mask2Former's differ in that a hue of
    ``+hue_delta`` is drawn too.

    Args:
        image_format: ``"RGB"`` or ``"BGR"``, the channel order of the uint8 images.
        brightness_delta: largest shift of all channels, in [0, 255].
        contrast_range, saturation_range: lowest and highest factor.
        hue_delta: shifts are whole numbers in [-hue_delta, hue_delta), in OpenCV's hue units of 2
            degrees; in [1, 90].

    Raises:
        ValueError: if the image format is unknown or ``hue_delta`` out of range.
    """

    def __init__(
        self,
        image_format: str = "RGB",
        brightness_delta: float = 32.0,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        super().__init__()
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be RGB or BGR, got {image_format!r}")
        if not 1 <= hue_delta <= 90:
            raise ValueError(f"hue_delta must be in [1, 90], got {hue_delta}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the four amounts and the place of the contrast step."""
        del image
        operation = partial(
            distort,
            image_format=self.image_format,
            brightness=self._draw(-self.brightness_delta, self.brightness_delta),
            contrast=self._draw(*self.contrast_range),
            saturation=self._draw(*self.saturation_range),
            hue=self._draw(-self.hue_delta, self.hue_delta, np.random.randint),
            is_contrast_first=bool(np.random.rand() < 0.5),
        )
        return T.ColorTransform(operation)

    @staticmethod
    def _draw(low: Any, high: Any, draw: Callable[..., Any] = np.random.uniform) -> Any | None:
        return draw(low, high) if np.random.rand() < 0.5 else None


class ChannelShuffle(T.Augmentation):
    """Put the colour channels in a random order, so that a colour carries no meaning."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw one of the permutations."""
        order = np.random.permutation(image.shape[2])
        return T.ColorTransform(partial(np.take, indices=order, axis=2))


class PadToMultiple(T.Augmentation):
    """Pad at the right and the bottom until both sides divide by ``divisor``.

    Args:
        divisor: >= 1.
        pad_value: value of the new image pixels, in raw units.

    Raises:
        ValueError: if the divisor is not positive.
    """

    def __init__(self, divisor: int, pad_value: float = 128.0) -> None:
        super().__init__()
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Compute the padding of this image."""
        height, width = image.shape[:2]
        return T.PadTransform(
            0, 0, -width % self.divisor, -height % self.divisor, width, height, self.pad_value
        )


class ColorPadTransform(T.PadTransform):
    """Detectron2's ``PadTransform`` with one ``pad_value`` per channel."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad ``(H, W, C)``; integers get the rounded colour."""
        color = np.asarray(self.pad_value, np.float64)
        if np.issubdtype(img.dtype, np.integer):
            color = np.rint(color)
        height, width = img.shape[:2]
        shape = (height + self.y0 + self.y1, width + self.x0 + self.x1, img.shape[2])
        padded = np.empty(shape, img.dtype)
        padded[:] = color.astype(img.dtype)
        padded[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return padded


class PadShortSide(T.Augmentation):
    """Pad at the right and the bottom until no side is shorter than ``size``.

    Args:
        size: >= 1.
        pad_value: colour of the new pixels in raw units, one number or one per channel; the mean
            that the model subtracts makes them 0 (to half a grey level, since pixels are integers).
        seg_pad_value: class of the new pixels.

    Raises:
        ValueError: if the size is not positive.
    """

    def __init__(
        self, size: int, pad_value: float | Sequence[float] = 0.0, seg_pad_value: int = 255
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        color = pad_value if isinstance(pad_value, int | float) else tuple(pad_value)
        self._init({"size": size, "pad_value": color, "seg_pad_value": seg_pad_value})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Compute the padding of this image."""
        height, width = image.shape[:2]
        right, bottom = max(self.size - width, 0), max(self.size - height, 0)
        return ColorPadTransform(
            0, 0, right, bottom, width, height, self.pad_value, self.seg_pad_value
        )


def distort(
    image: np.ndarray,
    *,
    image_format: str,
    brightness: float | None,
    contrast: float | None,
    saturation: float | None,
    hue: int | None,
    is_contrast_first: bool,
) -> np.ndarray:
    """Shift and scale the colours of an image; a step of None is left out.

    Args:
        image: ``(H, W, 3)`` uint8.
        image_format: ``"RGB"`` or ``"BGR"``.
        brightness: added to every channel.
        contrast: factor of every channel, before or after saturation and hue.
        saturation: factor of the saturation.
        hue: added to OpenCV's uint8 hue, modulo 180.
        is_contrast_first: where the contrast is changed.

    Returns:
        A new ``(H, W, 3)`` uint8 image, clipped and rounded down after each step. Saturation and
        hue go by HSV and back, each on its own, which costs up to a few levels.
    """
    shifted = image.copy() if brightness is None else _levels(1.0, brightness)[image]
    if contrast is not None and is_contrast_first:
        shifted = _levels(contrast, 0.0)[shifted]
    if saturation is not None:
        shifted = _in_hsv(shifted, image_format, 1, _levels(saturation, 0.0))
    if hue is not None:
        turned = ((np.arange(256) + hue) % 180).astype(np.uint8)
        shifted = _in_hsv(shifted, image_format, 0, turned)
    if contrast is not None and not is_contrast_first:
        shifted = _levels(contrast, 0.0)[shifted]
    return shifted


_HSV_CODES = {
    "RGB": (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB),
    "BGR": (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR),
}


def _in_hsv(image: np.ndarray, image_format: str, channel: int, table: np.ndarray) -> np.ndarray:
    to_hsv, from_hsv = _HSV_CODES[image_format]
    hsv = cv2.cvtColor(image, to_hsv)
    hsv[..., channel] = table[hsv[..., channel]]
    return cv2.cvtColor(hsv, from_hsv)


def _levels(factor: float, shift: float) -> np.ndarray:
    """What becomes of the 256 levels; a table is several times faster than pixels are."""
    levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift)
    return np.clip(levels, 0, 255).astype(np.uint8)
