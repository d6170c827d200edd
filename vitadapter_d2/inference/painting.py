"""Masks, boxes and labels on a picture, and colours that stay with their objects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.colormap import colormap
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

_SAME_OBJECT_IOU = 0.5
_MAX_ABSENCE = 8  # frames
_GOLDEN_RATIO = 0.618034
_MIN_FONT_PIXELS = 14


@dataclass(frozen=True)
class _Label:
    """A text, and the point at its middle or at its upper left corner."""

    text: str
    point: tuple[float, float]
    color: Color
    is_centered: bool


class Painting:
    """A picture that is painted on.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, left as it is.
        metadata: class names and colours of the data set.
        alpha: weight of a mask's colour against the picture, in [0, 1].
        factor: the picture is enlarged by it, a whole number; masks and boxes too.
    """

    def __init__(
        self, image: np.ndarray, metadata: Metadata, alpha: float, factor: int = 1
    ) -> None:
        self.factor = factor
        self.pixels = np.ascontiguousarray(_enlarged(image, factor)).copy()
        self.metadata = metadata
        self.alpha = alpha
        height, width = self.pixels.shape[:2]
        side = math.sqrt(height * width)
        self.line = max(1, round(side / 700))
        self.font = _font(max(_MIN_FONT_PIXELS, round(side / 45)))
        self._labels: list[_Label] = []

    def mask(self, mask: np.ndarray, color: Color, label: str | None = None) -> None:
        """Paints ``(H, W)`` bool and writes the label where the mask is thickest."""
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if not len(columns):
            return
        left, top = int(columns[0]), int(rows[0])
        cropped = mask[top : rows[-1] + 1, left : columns[-1] + 1]
        cropped = _enlarged(cropped.astype(np.uint8), self.factor)
        left, top = left * self.factor, top * self.factor
        height, width = cropped.shape
        part = self.pixels[top : top + height, left : left + width]
        mixed = cv2.LUT(part, self._mixtures(color))
        np.copyto(part, mixed, where=cropped[:, :, None].astype(bool))
        contours, _ = cv2.findContours(cropped, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        edge = tuple(value // 2 for value in color)
        cv2.drawContours(self.pixels, contours, -1, edge, self.line, offset=(left, top))
        if label is not None:
            x, y = _thickest(cropped)
            self._labels.append(_Label(label, (left + x, top + y), color, True))

    def _mixtures(self, color: Color) -> np.ndarray:
        """What each value of each channel becomes under a mask, ``(1, 256, 3)`` uint8."""
        values = np.arange(256)[:, None] * (1 - self.alpha) + np.multiply(color, self.alpha)
        return np.round(values)[None].astype(np.uint8)

    def box(self, box: Sequence[float], color: Color, label: str) -> None:
        """Draws a box ``x0, y0, x1, y1`` with the label inside of its upper left corner."""
        height, width = self.pixels.shape[:2]
        # A detector may see a part of an object beyond the edge; its box is closed there.
        limits = (width, height, width, height)
        x0, y0, x1, y1 = (
            min(max(round(value * self.factor), 0), limit)
            for value, limit in zip(box, limits, strict=True)
        )
        cv2.rectangle(self.pixels, (x0, y0), (x1 - 1, y1 - 1), color, 2 * self.line)
        self._labels.append(_Label(label, (x0, y0), color, False))

    def finish(self) -> np.ndarray:
        """The picture with its labels, ``(H, W, 3)`` uint8 RGB."""
        for label in self._labels:
            self._write(label)
        return self.pixels

    def _write(self, label: _Label) -> None:
        """On a dark ground, inside of the picture."""
        left, top, right, bottom = self.font.getbbox(label.text)
        pad = max(1, round(self.font.size / 8))
        width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
        x, y = (round(value) for value in label.point)
        if label.is_centered:
            x, y = x - width // 2, y - height // 2
        x = max(0, min(x, self.pixels.shape[1] - width))
        y = max(0, min(y, self.pixels.shape[0] - height))
        ground = self.pixels[y : y + height, x : x + width]
        patch = Image.fromarray(ground // 5)
        light = tuple(255 - (255 - value) * 3 // 5 for value in label.color)
        position = (pad - left, pad - top)
        ImageDraw.Draw(patch).text(position, label.text, fill=light, font=self.font)
        ground[...] = np.asarray(patch)


@dataclass
class _Known:
    """An object that was seen in this video."""

    box: torch.Tensor
    label: int
    color: Color
    absence: int = 0


class InstanceColors:
    """Gives each object of a video its colour, and of a picture a different one to each.

    Objects are those of the frame before if class and box agree (intersection over union above
    0.5). The data set's ``thing_colors`` are made lighter and darker; without them a colour map is
    gone through.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.palette = metadata.get("thing_colors")
        self._known: list[_Known] = []
        self._count = 0

    def __call__(self, boxes: torch.Tensor, labels: Sequence[int]) -> list[Color]:
        """Colours of the objects of the next frame.

        Args:
            boxes: ``(N, 4)`` float, ``x0, y0, x1, y1``.
            labels: N class numbers.
        """
        known = self._known
        others = torch.tensor([one.label for one in known], dtype=torch.int64)
        overlaps = torch.zeros(len(boxes), len(known))
        if len(boxes) and known:
            overlaps = pairwise_iou(Boxes(boxes), Boxes(torch.stack([one.box for one in known])))
            overlaps = overlaps * (torch.tensor(labels)[:, None] == others)
        seen: list[_Known] = []
        for index, label in enumerate(labels):
            color = None
            if known and float(overlaps[index].max()) > _SAME_OBJECT_IOU:
                match = int(overlaps[index].argmax())
                color = known[match].color
                known[match].absence = -1  # replaced by what is seen now
                overlaps[:, match] = 0
            seen.append(_Known(boxes[index], label, color or self._next(label)))
        for one in known:
            if 0 <= one.absence < _MAX_ABSENCE:
                seen.append(_Known(one.box, one.label, one.color, one.absence + 1))
        self._known = seen
        return [one.color for one in seen[: len(labels)]]

    def _next(self, label: int) -> Color:
        self._count += 1
        if not self.palette or label >= len(self.palette):
            return _map_color(self._count - 1)
        shift = (self._count * _GOLDEN_RATIO) % 1.0 * 0.7 - 0.35
        goal = 255.0 if shift > 0 else 0.0
        mixed = [value + abs(shift) * (goal - value) for value in self.palette[label]]
        return (round(mixed[0]), round(mixed[1]), round(mixed[2]))


def stuff_color(metadata: Metadata, label: int) -> Color:
    """The data set's colour of a class, of a colour map if it has none."""
    colors = metadata.get("stuff_colors") or ()
    if label >= len(colors):
        return _map_color(label)
    red, green, blue = (int(value) for value in colors[label])
    return red, green, blue


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _map_color(index: int) -> Color:
    colors = colormap(rgb=True, maximum=255)
    red, green, blue = (int(value) for value in colors[index % len(colors)])
    return red, green, blue


def _enlarged(pixels: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return pixels
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)


def _thickest(mask: np.ndarray) -> tuple[float, float]:
    """``x, y`` of the pixel of a uint8 mask that is farthest from its border."""
    step = max(1, min(mask.shape) // 256)  # as exact as a label needs it
    sparse = cv2.copyMakeBorder(mask[::step, ::step], 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    *_, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(sparse, cv2.DIST_L2, 3))
    return float((x - 1) * step), float((y - 1) * step)
