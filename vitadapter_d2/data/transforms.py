"""Augmentations that Detectron2 lacks: photometric distortion, channel shuffle, resizing, padding.

All draw from numpy's global generator, which Detectron2 seeds in each worker. Large-scale jitter
is Detectron2's ``ResizeScale`` and ``FixedSizeCrop``, a random brightness its
``RandomBrightness``, a crop without a dominating class its ``RandomCrop_CategoryAreaConstraint``.

The resizing is what the published segmentation models were trained and tested with: OpenCV's
bilinear interpolation, which does not antialias where Detectron2's ``ResizeTransform`` does, and
the size rules of mmcv (Apache-2.0).
"""

from collections.abc import Sequence
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


class OpenCVResizeTransform(T.Transform):
    """Resize with OpenCV: images bilinearly without antialiasing, label maps to the nearest.

    Args:
        height, width: of the image that comes in.
        new_height, new_width: of the image that comes out.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Resize ``(H, W)`` or ``(H, W, C)`` uint8 or float32."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a map of classes, which are kept as they are."""
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale ``(N, 2)`` points x, y."""
        return coords * np.array([self.new_width / self.width, self.new_height / self.height])

    def inverse(self) -> T.Transform:
        """The resize back to the first size."""
        return OpenCVResizeTransform(self.new_height, self.new_width, self.height, self.width)

    def _resize(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        size = (self.new_width, self.new_height)
        return cv2.resize(np.ascontiguousarray(array), size, interpolation=interpolation)


def scaled_size(height: int, width: int, scale: Sequence[float]) -> tuple[int, int]:
    """The largest size of the same shape whose sides lie within ``scale``, as mmcv rounds it.

    Args:
        height: of the image.
        width: of the image.
        scale: the limits of its two sides, in any order; the longer side has the larger limit.

    Returns:
        Height and width, each at least 1.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


class ResizeToScale(T.Augmentation):
    """Resize into a rectangle, itself scaled by a random ratio, and keep the aspect ratio.

    Args:
        scale: the limits of the two sides, such as ``(2048, 512)``: see ``scaled_size``.
        ratio_range: the limits are multiplied by a number drawn uniformly from it and rounded down;
            ``(1.0, 1.0)`` for a test.

    Raises:
        ValueError: if a limit or a ratio is not positive.
    """

    def __init__(self, scale: Sequence[int], ratio_range: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__()
        if len(scale) != 2 or min(scale) < 1:
            raise ValueError(f"scale must be two positive sides, got {tuple(scale)}")
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f"ratio_range must be 0 < low <= high, got {tuple(ratio_range)}")
        self._init({"scale": tuple(scale), "ratio_range": tuple(ratio_range)})

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the ratio and compute the size of this image."""
        ratio = np.random.uniform(*self.ratio_range)
        height, width = image.shape[:2]
        limits = [int(side * ratio) for side in self.scale]
        return OpenCVResizeTransform(height, width, *scaled_size(height, width, limits))


class ResizeToMultiple(T.Augmentation):
    """Resize, not pad, each side up to the next multiple of ``divisor``.

    Args:
        divisor: >= 1.

    Raises:
        ValueError: if the divisor is not positive.
    """

    def __init__(self, divisor: int = 32) -> None:
        super().__init__()
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Compute the size of this image."""
        height, width = image.shape[:2]
        new_height, new_width = height + -height % self.divisor, width + -width % self.divisor
        return OpenCVResizeTransform(height, width, new_height, new_width)


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
