"""InstaBoost: objects are cut out, the hole is filled, and they are put back a little elsewhere.

The rules for groups, borders, ranges and colours are those of the authors' released code, which
the published HTC++ models were trained with; that code has no licence, and none of it is used here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode, polygons_to_bitmask
from PIL import Image, ImageEnhance
from pycocotools import mask as coco_mask

Annotation = dict[str, Any]
ACTIONS = ("normal", "horizontal", "vertical", "skip")

_BORDER = 10  # pixels; what lies as near to the border may be cut off there
_INPAINT_RADIUS = 5


@dataclass(frozen=True)
class Move:
    """A group of objects and where they go.

    Attributes:
        members: places of the objects in the list of annotations.
        matrix: ``(2, 3)`` float64, old coordinates in pixels to new ones.
    """

    members: tuple[int, ...]
    matrix: np.ndarray


class InstaBoost:
    """Draws how the objects of an image are moved.

    Reference: Fang et al., InstaBoost: Boosting Instance Segmentation via Probability Map Guided
    Copy-Pasting, Sec. 3, arXiv:1908.07801. Objects whose boxes overlap move together. Nothing is
    turned, shrunk or moved inwards within ten pixels of the border.

    Departures: the map of likely places is left out, as the published models switch it off; the
    objects are cut out along their masks instead of by matting.

    Args:
        action_candidate: any of ``"normal"``, ``"horizontal"`` and ``"vertical"`` (mirrored),
            ``"skip"`` (left in place).
        action_prob: probability of each action.
        scale: lowest and highest factor.
        dx, dy: an object moves by up to its width divided by ``dx``, its height divided by ``dy``.
        theta: lowest and highest angle in whole degrees.
        color_prob: probability of changing the colours of an image whose objects are moved.
        aug_ratio: probability that an image's objects are moved.

    Raises:
        ValueError: if an action is unknown or the probabilities are none.
    """

    def __init__(
        self,
        action_candidate: Sequence[str] = ("normal", "horizontal", "skip"),
        action_prob: Sequence[float] = (1.0, 0.0, 0.0),
        scale: tuple[float, float] = (0.8, 1.2),
        dx: float = 15,
        dy: float = 15,
        theta: tuple[int, int] = (-1, 1),
        color_prob: float = 0.5,
        aug_ratio: float = 0.5,
    ) -> None:
        unknown = set(action_candidate) - set(ACTIONS)
        if unknown:
            raise ValueError(f"actions must be of {', '.join(ACTIONS)}, got {sorted(unknown)}")
        if len(action_prob) != len(action_candidate) or not math.isclose(sum(action_prob), 1):
            raise ValueError(f"action_prob must sum to 1, one per action, got {tuple(action_prob)}")
        for name, value in (("color_prob", color_prob), ("aug_ratio", aug_ratio)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        self.action_candidate = list(action_candidate)
        self.action_prob = list(action_prob)
        self.scale = scale
        self.dx, self.dy = dx, dy
        self.theta = theta
        self.color_prob = color_prob
        self.aug_ratio = aug_ratio

    def draw(self, annotations: Sequence[Annotation], height: int, width: int) -> "Boost | None":
        """Draw from numpy's global generator.

        Args:
            annotations: Detectron2's; crowds and objects without a mask are never moved.
            height: of the image.
            width: of the image.

        Returns:
            What to do, or None for nothing.
        """
        if np.random.random() >= self.aug_ratio:
            return None
        boxes = {
            i: BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for i, a in enumerate(annotations)
            if not a.get("iscrowd", 0) and a.get("segmentation")
        }
        boxes = {i: b for i, b in boxes.items() if b[2] - b[0] > 0 and b[3] - b[1] > 0}
        moves = []
        for members in overlapping_groups(boxes):
            corners = np.array([boxes[i] for i in members])
            bounds = np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])
            moves.append(Move(members, self._matrix(bounds, height, width)))
        colors = _draw_colors() if np.random.random() < self.color_prob else None
        return Boost(annotations, tuple(moves), height, width, colors)

    def _matrix(self, bounds: np.ndarray, height: int, width: int) -> np.ndarray:
        """Draw the map of one group; ``bounds`` is its box, x0, y0, x1, y1."""
        near = np.array(
            [*(bounds[:2] < _BORDER), *(bounds[2:] > np.array([width, height]) - _BORDER)]
        )
        action = self._draw_action(may_flip=not near.any())
        if action == "skip":
            return np.eye(2, 3)
        size = bounds[2:] - bounds[:2]
        scale = np.random.uniform(*self.scale)
        limit = (size // (self.dx, self.dy)).astype(int)
        shift = np.array([np.random.randint(-each, each + 1) for each in limit], np.float64)
        angle = math.radians(np.random.randint(self.theta[0], self.theta[1] + 1))
        if near.any():
            scale, angle = max(scale, 1.0), 0.0
            shift = np.where(near[:2], np.minimum(shift, 0), shift)
            shift = np.where(near[2:], np.maximum(shift, 0), shift)
        turned = scale * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        flip = {"horizontal": (-1.0, 1.0), "vertical": (1.0, -1.0)}.get(action, (1.0, 1.0))
        linear = turned @ np.diag(flip)
        center = (bounds[:2] + bounds[2:]) / 2
        return np.column_stack([linear, center + shift - linear @ center])

    def _draw_action(self, may_flip: bool) -> str:
        weights = np.array(self.action_prob, np.float64)
        if not may_flip:
            weights[[a in ("horizontal", "vertical") for a in self.action_candidate]] = 0
        if not weights.any():
            return "skip"
        return str(np.random.choice(self.action_candidate, p=weights / weights.sum()))


@dataclass(frozen=True)
class Boost:
    """What is done to one image and its annotations.

    Attributes:
        annotations: before anything is moved.
        moves: groups that do not share an object.
        height: of the image.
        width: of the image.
        colors: factors of saturation, brightness, contrast and sharpness, or None.
    """

    annotations: Sequence[Annotation]
    moves: tuple[Move, ...]
    height: int
    width: int
    colors: tuple[float, float, float, float] | None

    def move_annotations(self) -> list[Annotation]:
        """Return the annotations after the moves; what has left the image is left out."""
        matrices = {i: move.matrix for move in self.moves for i in move.members}
        moved = [
            _move_annotation(annotation, matrices[i], self.height, self.width)
            if i in matrices
            else annotation
            for i, annotation in enumerate(self.annotations)
        ]
        return [annotation for annotation in moved if annotation is not None]

    def paint(self, image: np.ndarray) -> np.ndarray:
        """Return the image after the moves: ``(H, W, 3)`` uint8 RGB.

        In BGR only the weights of grey in the change of colours differ.
        """
        if self.moves:
            masks = [self._mask(move) for move in self.moves]
            everything = np.maximum.reduce(masks)
            canvas = cv2.inpaint(image, everything, _INPAINT_RADIUS, cv2.INPAINT_NS)
            canvas = canvas.astype(np.float32)
            for move, mask in zip(self.moves, masks, strict=True):
                _paste(canvas, image, mask, move.matrix)
            image = np.rint(canvas).astype(np.uint8)
        return image if self.colors is None else _change_colors(image, self.colors)

    def _mask(self, move: Move) -> np.ndarray:
        """``(H, W)`` uint8, 1 where one of the group is."""
        parts = [
            decode(self.annotations[i]["segmentation"], self.height, self.width)
            for i in move.members
        ]
        return np.maximum.reduce(parts)


def overlapping_groups(boxes: dict[int, Sequence[float]]) -> list[tuple[int, ...]]:
    """Return sets of boxes that hang together by overlapping, in order; ``x0, y0, x1, y1``."""
    groups: list[tuple[int, ...]] = []
    left = dict(boxes)
    while left:
        first = next(iter(left))
        members, waiting = [first], [left.pop(first)]
        while waiting:
            x0, y0, x1, y1 = waiting.pop()
            touching = [
                i for i, b in left.items() if b[0] < x1 and x0 < b[2] and b[1] < y1 and y0 < b[3]
            ]
            members += touching
            waiting += [left.pop(i) for i in touching]
        groups.append(tuple(sorted(members)))
    return groups


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return polygons or a run-length code as ``(H, W)`` uint8, 1 inside."""
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, height, width).astype(np.uint8)
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation)


def _move_annotation(
    annotation: Annotation, matrix: np.ndarray, height: int, width: int
) -> Annotation | None:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        points = [np.reshape(p, (-1, 2)) @ matrix[:, :2].T + matrix[:, 2] for p in segmentation]
        inside = np.clip(np.concatenate(points), 0, (width, height))
        box = [*inside.min(axis=0), *inside.max(axis=0)]
        segmentation = [each.reshape(-1) for each in points]
    else:
        mask = decode(segmentation, height, width)
        mask = _warp(mask, matrix, cv2.INTER_NEAREST, (width, height))
        segmentation = coco_mask.encode(np.asfortranarray(mask))
        x, y, box_width, box_height = coco_mask.toBbox(segmentation)
        box = [x, y, x + box_width, y + box_height]
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    box = [float(value) for value in box]
    moved = {"segmentation": segmentation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
    return annotation | moved


def _warp(
    image: np.ndarray, matrix: np.ndarray, interpolation: int, size: tuple[int, int]
) -> np.ndarray:
    """Move an image into one of ``size``, width and height, that is 0 elsewhere."""
    # OpenCV counts from the middle of the first pixel, annotations from its corner.
    centered = matrix.copy()
    centered[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    return cv2.warpAffine(image, centered, size, flags=interpolation)


def _paste(canvas: np.ndarray, image: np.ndarray, mask: np.ndarray, matrix: np.ndarray) -> None:
    """Put the objects under ``mask`` into ``canvas``, ``(H, W, 3)`` float32, where they go."""
    if not mask.any():
        return
    x, y, width, height = cv2.boundingRect(mask)
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]])
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    limits = canvas.shape[1], canvas.shape[0]
    left, top = np.clip(np.floor(moved.min(axis=0)) - 1, 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(moved.max(axis=0)) + 1, 0, limits).astype(int)
    if right <= left or bottom <= top:
        return
    local = matrix.copy()
    local[:, 2] += matrix[:, :2] @ (x, y) - (left, top)
    window = np.s_[y : y + height, x : x + width]
    size = int(right - left), int(bottom - top)
    alpha = mask[window].astype(np.float32)
    # Only the objects' own pixels, or half of the old background would frame them.
    objects = _warp(image[window] * alpha[..., None], local, cv2.INTER_LINEAR, size)
    alpha = _warp(alpha, local, cv2.INTER_LINEAR, size)
    target = canvas[top:bottom, left:right]
    target += objects - alpha[..., None] * target


def _draw_colors() -> tuple[float, float, float, float]:
    """Draw the factors in steps of a tenth: 0 to 3, 1 to 2, 1 to 2, 0 to 3."""
    limits = ((0, 31), (10, 21), (10, 21), (0, 31))
    factors = [float(np.random.randint(low, high)) / 10 for low, high in limits]
    return factors[0], factors[1], factors[2], factors[3]


def _change_colors(image: np.ndarray, colors: Sequence[float]) -> np.ndarray:
    kinds = (
        ImageEnhance.Color,
        ImageEnhance.Brightness,
        ImageEnhance.Contrast,
        ImageEnhance.Sharpness,
    )
    changed = Image.fromarray(image)
    for kind, factor in zip(kinds, colors, strict=True):
        changed = kind(changed).enhance(factor)
    return np.asarray(changed)
