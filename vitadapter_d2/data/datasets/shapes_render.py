"""Drawing one scene of the generated data set: textures, patterned shapes, occlusion.

Sizes are given for a 128 px image and grow with it, except the least visible area of a thing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vitadapter_d2.data.datasets.shapes_categories import (
    SHAPES_STUFF,
    SHAPES_THINGS,
    StuffCategory,
    ThingCategory,
)

LEVELS = ("easy", "hard")
MIN_VISIBLE_PIXELS = 80
"""Nothing smaller is ever annotated: a thing under 100 visible pixels is rarely found at all."""

_REFERENCE_SIZE = 128
_EXTENT = (24.0, 58.0)
_MAX_ROTATION = 0.3
_MIN_VISIBLE_SHARE = 0.4
_MIN_STUFF_PIXELS = 300
_PLACEMENT_TRIES = 20
_SUBPIXEL_BITS = 4
_PATTERNS = ("plain", "horizontal", "vertical", "checker")
_INKS = ("dark", "light")


@dataclass(frozen=True)
class Scene:
    """One drawn image and its segments.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        owner: ``(H, W)`` uint8, index into ``categories`` of the segment that owns a pixel;
            every pixel is owned.
        categories: one entry per segment, stuff first, then things in painting order.
    """

    image: np.ndarray
    owner: np.ndarray
    categories: list[ThingCategory | StuffCategory]


@dataclass(frozen=True)
class _Shape:
    """A thing before it is painted: its pose, the pixels it covers, its full area."""

    center: np.ndarray  # (2,) x, y in pixels
    extent: float
    rotation: np.ndarray  # (2, 2)
    coverage: np.ndarray  # (H, W) uint8, 255 = covered wholly
    area: float  # pixels, also counting what lies outside of the image

    @property
    def mask(self) -> np.ndarray:
        """The pixels that are at least half covered, ``(H, W)`` bool."""
        return self.coverage >= 128


def draw_scene(
    rng: np.random.Generator, index: int, size: int, max_things: int, level: str
) -> Scene:
    """Draw one scene with 1 to 3 stuff regions and 2 to ``max_things`` things.

    Args:
        rng: the only source of randomness.
        index: number of the image in its split. The first stuff region and the first thing take
            their class from it, so that every class occurs in any eight images in a row.
        size: side of the square image in pixels.
        max_things: at least 2.
        level: ``"easy"``: each thing class has its outline and its pattern; ``"hard"``: the
            pattern is random and the outline alone tells the class.

    Returns:
        The scene. Every thing has at least ``MIN_VISIBLE_PIXELS`` visible pixels and shows two
        fifths of its full area, so that what is annotated can be recognised.
    """
    while True:
        image, owner, stuff = _draw_stuff(rng, index, size)
        deck = rng.integers(len(SHAPES_THINGS), size=rng.integers(2, max_things + 1))
        deck[0] = index % len(SHAPES_THINGS)
        things: list[ThingCategory] = []
        shapes: list[_Shape] = []
        for thing in (SHAPES_THINGS[i] for i in deck):
            shape = _place(rng, thing, shapes, owner, len(stuff))
            if shape is not None:
                _paint(rng, image, shape, thing, level)
                owner[shape.mask] = len(stuff) + len(shapes)
                things.append(thing)
                shapes.append(shape)
        if len(things) >= 2 and things[0] is SHAPES_THINGS[deck[0]]:
            noise = rng.normal(0.0, 2.0, image.shape)
            return Scene(np.clip(image + noise, 0, 255).astype(np.uint8), owner, [*stuff, *things])


def _place(
    rng: np.random.Generator,
    thing: ThingCategory,
    placed: list[_Shape],
    owner: np.ndarray,
    num_stuff: int,
) -> _Shape | None:
    """Find a pose that leaves every segment visible enough; None if there seems to be none."""
    size = len(owner)
    scale = size / _REFERENCE_SIZE
    least = [_MIN_STUFF_PIXELS * scale**2] * num_stuff + [_least_visible(s) for s in placed]
    for _ in range(_PLACEMENT_TRIES):
        extent = rng.uniform(*_EXTENT) * scale
        center = rng.uniform(0.12, 0.88, 2) * size
        if placed and rng.random() < 0.5:
            # Half of the things are put beside an earlier one: overlaps should be common.
            other = placed[rng.integers(len(placed))]
            angle = rng.uniform(0, 2 * np.pi)
            reach = rng.uniform(0.45, 0.85) * (extent + other.extent) / 2
            center = other.center + reach * np.array([np.cos(angle), np.sin(angle)])
            center = np.clip(center, 0.12 * size, 0.88 * size)
        shape = _make_shape(rng, thing.outline, center, extent, size)
        mask = shape.mask
        if mask.sum() < _least_visible(shape):
            continue
        visible = np.bincount(owner[~mask], minlength=len(least))
        if np.all(visible >= least):
            return shape
    return None


def _least_visible(shape: _Shape) -> float:
    return max(MIN_VISIBLE_PIXELS, _MIN_VISIBLE_SHARE * shape.area)


def _make_shape(
    rng: np.random.Generator, outline: str, center: np.ndarray, extent: float, size: int
) -> _Shape:
    angle = rng.uniform(-_MAX_ROTATION, _MAX_ROTATION)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    half = extent / 2 * rng.uniform(0.88, 1.0, 2)
    contours = [(c * half) @ rotation.T + center for c in _OUTLINES[outline]]
    fixed_point = [np.round(c * 2**_SUBPIXEL_BITS).astype(np.int32) for c in contours]
    coverage = np.zeros((size, size), np.uint8)
    cv2.fillPoly(coverage, fixed_point, 255, cv2.LINE_AA, _SUBPIXEL_BITS)  # even-odd: rings work
    areas = [cv2.contourArea(c.astype(np.float32)) for c in contours]
    return _Shape(center, extent, rotation, coverage, areas[0] - sum(areas[1:]))


def _paint(
    rng: np.random.Generator, image: np.ndarray, shape: _Shape, thing: ThingCategory, level: str
) -> None:
    """Blend a thing in a random saturated colour into ``image``, in place."""
    pattern, ink = thing.pattern, thing.ink
    if level == "hard":
        pattern, ink = str(rng.choice(_PATTERNS)), str(rng.choice(_INKS))
    color = _random_color(rng, saturation=(0.65, 1.0), value=(0.6, 0.95))
    ink_color = 0.3 * color if ink == "dark" else color + 0.75 * (255 - color)
    period = shape.extent * rng.uniform(0.2, 0.28)
    y, x = np.nonzero(shape.coverage)
    places = (np.stack([x, y], axis=1) - shape.center) @ shape.rotation  # in the shape's frame
    has_ink = _stripes(pattern, places + rng.uniform(0, period, 2), period)
    fill = np.where(has_ink[:, None], ink_color, color)
    image[y, x] += shape.coverage[y, x, None] / 255 * (fill - image[y, x])


def _stripes(pattern: str, places: np.ndarray, period: float) -> np.ndarray:
    """Which places, ``(N, 2)`` x and y along the shape's axes, carry ink: ``(N,)`` bool."""
    across, down = (places.T % period) < period / 2
    if pattern == "horizontal":
        return down
    if pattern == "vertical":
        return across
    if pattern == "checker":
        return across ^ down
    return np.zeros_like(down)


def _random_color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """Return a random colour of any hue, ``(3,)`` float RGB in [0, 255]."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]])
    return 255.0 * cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def _draw_stuff(
    rng: np.random.Generator, index: int, size: int
) -> tuple[np.ndarray, np.ndarray, list[StuffCategory]]:
    """Split the image into 1 to 3 wavy bands of different textures."""
    others = [i for i in range(len(SHAPES_STUFF)) if i != index % len(SHAPES_STUFF)]
    chosen = [index % len(SHAPES_STUFF), *rng.permutation(others)[: rng.integers(0, 3)]]
    stuff = [SHAPES_STUFF[i] for i in chosen]
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = 0.06 * np.sin(2 * np.pi * (across * rng.uniform(0.5, 1.5) + rng.random()))
    height = along + wave
    cuts = np.quantile(height, (np.arange(1, len(stuff)) + rng.uniform(-0.15, 0.15)) / len(stuff))
    owner = np.searchsorted(cuts, height).astype(np.uint8)
    image = np.empty((size, size, 3))
    for number, category in enumerate(stuff):
        inside = owner == number
        base = _random_color(rng, saturation=(0.0, 0.2), value=(0.35, 0.7))
        texture = _TEXTURES[category.texture](rng, size)
        image[inside] = base + 26.0 * texture[inside][:, None]
    return image, owner, stuff


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.clip(rng.normal(0.0, 0.7, (size, size)), -1.5, 1.5)


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    scale = size / _REFERENCE_SIZE
    y, x = np.mgrid[:size, :size] / scale
    bend = rng.uniform(2, 4) * np.sin(2 * np.pi * (x / rng.uniform(24, 40) + rng.random()))
    return np.sin(2 * np.pi * ((y + bend) / rng.uniform(9, 14) + rng.random()))


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    scale = size / _REFERENCE_SIZE
    height, width = rng.uniform(10, 14), rng.uniform(18, 26)
    y, x = np.mgrid[:size, :size] / scale + rng.uniform(0, 20, 2)[:, None, None]
    row = np.floor(y / height)
    x = x + row % 2 * width / 2
    column = np.floor(x / width)
    tint = rng.uniform(-0.2, 0.6, 1024)[((row * 31 + column * 7) % 1024).astype(int)]
    is_mortar = (y % height < 2.0) | (x % width < 2.0)
    return np.where(is_mortar, -1.3, tint)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = rng.normal(0.0, 1.0, (7, 7)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), -1.5, 1.5)


_TEXTURES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "grain": _grain,
    "waves": _waves,
    "bricks": _bricks,
    "clouds": _clouds,
}


def _polygon(corners: int, radius: float = 1.0, start: float = -0.5 * np.pi) -> np.ndarray:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int, inner: float) -> np.ndarray:
    corners = _polygon(2 * points, 1.1)
    corners[1::2] *= inner
    return corners


_CROSS = np.array(
    [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)]
    + [(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
)
# Contours of each outline in a frame where [-1, 1] is the extent; a second contour is a hole.
_OUTLINES: dict[str, list[np.ndarray]] = {
    "disc": [_polygon(48)],
    "square": [_polygon(4, 1.2, 0.25 * np.pi)],
    "triangle": [_polygon(3, 1.15)],
    "diamond": [_polygon(4, 1.1) * np.array([0.7, 1.0])],
    "cross": [_CROSS / 3.0],
    "star": [_star(5, 0.5)],
    "hexagon": [_polygon(6, 1.0)],
    "ring": [_polygon(48), _polygon(48, 0.5)],
}
