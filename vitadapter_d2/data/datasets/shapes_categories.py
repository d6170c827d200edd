"""Label table of the generated data set "shapes", a table and nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ThingCategory:
    """A thing class: the pair of an outline and a fill pattern.

    ``pattern`` names the stripes, ``ink`` says whether they are darker or lighter than the
    object's own colour, which is random and tells nothing.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    outline: str
    pattern: str
    ink: str


@dataclass(frozen=True)
class StuffCategory:
    """A stuff class: a texture."""

    id: int
    name: str
    color: tuple[int, int, int]
    texture: str


# The ids are those of the JSON files. As in COCO they are neither zero-based nor contiguous, so
# that a mix-up of data set ids and contiguous ids shows here first. Colours are for drawing.
SHAPES_THINGS: tuple[ThingCategory, ...] = (
    ThingCategory(1, "plain disc", (220, 20, 60), "disc", "plain", "dark"),
    ThingCategory(2, "dark-lined square", (0, 0, 230), "square", "horizontal", "dark"),
    ThingCategory(3, "dark-barred triangle", (255, 170, 0), "triangle", "vertical", "dark"),
    ThingCategory(4, "dark-checked diamond", (160, 32, 240), "diamond", "checker", "dark"),
    ThingCategory(5, "light-lined cross", (0, 160, 60), "cross", "horizontal", "light"),
    ThingCategory(6, "light-barred star", (0, 200, 220), "star", "vertical", "light"),
    ThingCategory(7, "light-checked hexagon", (230, 90, 190), "hexagon", "checker", "light"),
    ThingCategory(8, "plain ring", (120, 80, 20), "ring", "plain", "dark"),
)
SHAPES_STUFF: tuple[StuffCategory, ...] = (
    StuffCategory(101, "grain", (190, 180, 150), "grain"),
    StuffCategory(102, "waves", (90, 130, 170), "waves"),
    StuffCategory(103, "bricks", (150, 90, 70), "bricks"),
    StuffCategory(104, "clouds", (140, 150, 160), "clouds"),
)
