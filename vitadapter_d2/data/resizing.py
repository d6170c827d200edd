"""Resizing as the published models were trained and tested with it.

OpenCV's bilinear interpolation does not antialias where Detectron2's ``ResizeTransform`` does; the
size rules are those of mmcv (Apache-2.0).
"""

from collections.abc import Sequence

import cv2
import detectron2.data.transforms as T
import numpy as np


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
        resized = cv2.resize(np.ascontiguousarray(array), size, interpolation=interpolation)
        return resized.reshape(size[::-1] + array.shape[2:])  # OpenCV drops a single channel


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


class ResizeShortSide(T.Augmentation):
    """Detectron2's ``ResizeShortestEdge`` as the published detectors have it: OpenCV, mmcv's sizes.

    Args:
        short_edge_length: of the resized image, or several to draw from.
        max_size: limit of the long side, which may make the short one shorter.
        sample_style: how it is drawn: ``"choice"`` of one of them, or ``"range"``, a whole number
            from the first of two to the second.

    Raises:
        ValueError: if a length or the style is none of these.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int,
        sample_style: str = "choice",
    ) -> None:
        super().__init__()
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length,)
        lengths = tuple(short_edge_length)
        if not lengths or min(*lengths, max_size) < 1:
            raise ValueError(
                f"short_edge_length and max_size must be positive, got {lengths} and {max_size}"
            )
        if sample_style not in ("choice", "range"):
            raise ValueError(f"sample_style must be choice or range, got {sample_style!r}")
        if sample_style == "range" and (len(lengths) != 2 or lengths[0] > lengths[1]):
            raise ValueError(f"a range must be a low and a high short_edge_length, got {lengths}")
        self._init(
            {"short_edge_length": lengths, "max_size": max_size, "sample_style": sample_style}
        )

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the short side and compute the size of this image."""
        if self.sample_style == "range":
            low, high = self.short_edge_length
            short = int(np.random.randint(low, high + 1))
        else:
            short = int(np.random.choice(self.short_edge_length))
        height, width = image.shape[:2]
        limits = self.max_size, min(short, self.max_size)
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
