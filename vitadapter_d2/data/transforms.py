"""Augmentations that Detectron2 lacks: photometric distortion, channel shuffle, padding.

All draw from numpy's global generator, which Detectron2 seeds in each worker. Large-scale jitter
is Detectron2's ``ResizeScale`` and ``FixedSizeCrop``, a random brightness its
``RandomBrightness``.
"""

from functools import partial

import cv2
import detectron2.data.transforms as T
import numpy as np


class PhotometricDistortion(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each applied with probability one half.

    Reference: Liu et al., SSD: Single Shot MultiBox Detector, Sec. 2.2 "Data augmentation" (with
    the ranges of the released code), arXiv:1512.02325. Contrast comes either before or after
    saturation and hue.

    Args:
        image_format: ``"RGB"`` or ``"BGR"``, the channel order of the uint8 images.
        brightness_delta: largest shift of all channels, in [0, 255].
        contrast_range, saturation_range: lowest and highest factor.
        hue_delta: largest shift in OpenCV's hue units of 2 degrees, in [0, 90].

    Raises:
        ValueError: if the image format is unknown.
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
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the four amounts and the place of the contrast step."""
        del image
        operation = partial(
            distort,
            image_format=self.image_format,
            brightness=self._draw((-self.brightness_delta, self.brightness_delta), 0.0),
            contrast=self._draw(self.contrast_range, 1.0),
            saturation=self._draw(self.saturation_range, 1.0),
            hue=round(self._draw((-self.hue_delta, self.hue_delta), 0.0)),
            is_contrast_first=bool(np.random.rand() < 0.5),
        )
        return T.ColorTransform(operation)

    @staticmethod
    def _draw(limits: tuple[float, float], neutral: float) -> float:
        return float(np.random.uniform(*limits)) if np.random.rand() < 0.5 else neutral


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


def distort(
    image: np.ndarray,
    *,
    image_format: str,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: int,
    is_contrast_first: bool,
) -> np.ndarray:
    """Shift and scale the colours of an image.

    Args:
        image: ``(H, W, 3)`` uint8.
        image_format: ``"RGB"`` or ``"BGR"``.
        brightness: added to every channel.
        contrast: factor of every channel, before or after saturation and hue.
        saturation: factor of the saturation.
        hue: added to OpenCV's uint8 hue, modulo 180.
        is_contrast_first: where the contrast is changed.

    Returns:
        A new ``(H, W, 3)`` uint8 image, rounded and clipped after each step.
    """
    image = _scale_and_shift(image, 1.0, brightness)
    if is_contrast_first:
        image = _scale_and_shift(image, contrast, 0.0)
    if saturation != 1.0 or hue != 0:
        to_hsv, from_hsv = _HSV_CODES[image_format]
        hsv = cv2.cvtColor(image, to_hsv)
        levels = np.arange(256)
        hsv[..., 0] = ((levels + hue) % 180).astype(np.uint8)[hsv[..., 0]]
        hsv[..., 1] = np.clip(levels * saturation, 0, 255).round().astype(np.uint8)[hsv[..., 1]]
        image = cv2.cvtColor(hsv, from_hsv)
    return image if is_contrast_first else _scale_and_shift(image, contrast, 0.0)


_HSV_CODES = {
    "RGB": (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB),
    "BGR": (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR),
}


def _scale_and_shift(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    # A table of the 256 levels is several times faster than arithmetic on the pixels.
    table = np.clip(np.arange(256) * factor + shift, 0, 255).round().astype(np.uint8)
    return table[image]
