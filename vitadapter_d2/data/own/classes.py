"""The classes of a user's own data: what a checkpoint remembers of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.colormap import colormap

from vitadapter_d2.data.datasets.registration import Category

KINDS = ("instances", "semantic", "panoptic")
"""What annotations there are: objects, label maps, or panoptic segments."""

IGNORE_LABEL = 255
_LONGEST_NAME = 100
_MOST_CLASSES = 100_000

_Color = tuple[int, int, int]


@dataclass(frozen=True)
class OwnClasses:
    """The classes of a data set in the order of their contiguous ids, things first.

    Attributes:
        kind: one of ``KINDS``.
        categories: at least one; ids and names are unique.
        has_masks: of objects; a model of boxes alone has no mask head.

    Raises:
        ValueError: a value is out of range.
    """

    kind: str
    categories: tuple[Category, ...]
    has_masks: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 1 <= len(self.categories) <= _MOST_CLASSES:
            raise ValueError(f"there must be 1 to {_MOST_CLASSES} classes, got {len(self)}")
        for what, values in (("id", self.ids), ("name", self.names)):
            value, count = Counter(values).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{count} classes have the {what} {value!r}")

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def ids(self) -> list[int]:
        """Ids in the annotation files."""
        return [category.id for category in self.categories]

    @property
    def names(self) -> list[str]:
        """Names of all classes."""
        return [category.name for category in self.categories]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for a config or a checkpoint; ids and colours of things, then of stuff."""
        return {
            "kind": self.kind,
            "thing_classes": [c.name for c in self.categories if c.is_thing],
            "stuff_classes": [c.name for c in self.categories if not c.is_thing],
            "ids": self.ids,
            "colors": [list(c.color) for c in self.categories],
            "has_masks": self.has_masks,
        }

    @classmethod
    def from_dict(cls, content: Any, source: object) -> "OwnClasses":
        """The inverse of ``to_dict`` for content that nobody vouches for: a checkpoint's.

        Args:
            content: of any type.
            source: where it comes from, for the message.

        Raises:
            ValueError: it is not what ``to_dict`` gives.
        """
        try:
            things, stuff = list(content["thing_classes"]), list(content["stuff_classes"])
            ids, colors = content["ids"], content["colors"]
            categories = tuple(
                Category(whole_number(number), clean_name(name), _color(color), i < len(things))
                for i, (number, name, color) in enumerate(
                    zip(ids, [*things, *stuff], colors, strict=True)
                )
            )
            return cls(str(content["kind"]), categories, bool(content["has_masks"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the classes in {source} are damaged: {error!r}") from error

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's evaluators and Visualizer read, whatever the split."""
        names, colors = self.names, [list(c.color) for c in self.categories]
        of_all = {number: index for index, number in enumerate(self.ids)}
        things = {c.id: of_all[c.id] for c in self.categories if c.is_thing}
        values: dict[str, Any] = {"ignore_label": IGNORE_LABEL}
        if self.kind != "semantic":
            values["thing_classes"] = names[: len(things)]
            values["thing_colors"] = colors[: len(things)]
            values["thing_dataset_id_to_contiguous_id"] = things
        if self.kind != "instances":
            # Every class, since the semantic evaluator takes its classes from here.
            values["stuff_classes"] = names
            values["stuff_colors"] = colors
            values["stuff_dataset_id_to_contiguous_id"] = of_all
        return values

    def digest(self, *more: object) -> str:
        """A short name for these classes and for what is given; the same in every process."""
        text = json.dumps([self.to_dict(), *map(str, more)], sort_keys=True)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:10]

    def register(self) -> str:
        """Enters the classes in Detectron2's ``MetadataCatalog`` and returns the name."""
        name = f"own_{self.digest()}"
        set_metadata(name, self.metadata())
        return name


def set_metadata(name: str, values: Mapping[str, Any]) -> Metadata:
    """Sets what is not set yet; Detectron2 refuses to change a value, even to an equal one."""
    metadata = MetadataCatalog.get(name)
    for key, value in values.items():
        if not hasattr(metadata, key):
            setattr(metadata, key, value)
    return metadata


def refuse_equal_names(names: Sequence[str], source: object) -> None:
    """Raises a ValueError that says where two classes with one name come from."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{source}: {count} classes have the name {name!r}")


def make_categories(
    ids: Sequence[int], names: Sequence[str], things: Sequence[bool], colors: Sequence[Any] = ()
) -> tuple[Category, ...]:
    """Classes in their order, things first; a colour that is missing or wrong comes from a table.

    Args:
        ids: in the annotation files.
        names: as the user wrote them.
        things: whether each is one.
        colors: of each, in any form; may be empty.
    """
    table = colormap(rgb=True, maximum=255).round().astype(int).tolist()
    categories = []
    for index, (number, name, is_thing) in enumerate(zip(ids, names, things, strict=True)):
        try:
            color = _color(colors[index])
        except (IndexError, TypeError, ValueError):
            color = _color(table[index % len(table)])
        categories.append(Category(number, clean_name(name), color, bool(is_thing)))
    return tuple(sorted(categories, key=lambda category: not category.is_thing))


def clean_name(name: object) -> str:
    """A name on one line, without what terminals and fonts cannot show.

    Raises:
        ValueError: nothing is left, or it is longer than 100 characters.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    text = text.replace("${", "$ {")  # which a config takes for a reference
    if not 1 <= len(text) <= _LONGEST_NAME:
        raise ValueError(
            f"a class name must have 1 to {_LONGEST_NAME} characters, got {str(name)[:120]!r}"
        )
    return text


def whole_number(value: object) -> int:
    """An integer; also of ``3.0`` and ``"3"``, which some tools write.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _color(color: Any) -> _Color:
    red, green, blue = (whole_number(value) for value in color)
    if min(red, green, blue) < 0 or max(red, green, blue) > 255:
        raise ValueError(f"a colour must be three numbers of 0 to 255, got {color!r}")
    return red, green, blue
