"""The image files that annotations name: finding them, and what their headers say."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.reading import image_size

# Headers of more files than these are not looked at: on a network disk each costs milliseconds.
MOST_CHECKED = 1000
MANY = 200
"""From so many files on, they are read by several processes, with a progress bar."""
_SAMPLE = 20


def locate(names: Sequence[str], folders: Sequence[Path], source: object) -> tuple[Path, list[str]]:
    """Finds the folder in which files lie.

    Names may have backslashes, and folders in front that existed on the machine of the annotator
    only: where a file is not found by its whole name, its last part counts.

    Args:
        names: as the annotations have them.
        folders: to look in, likeliest first.
        source: what names them, for the message.

    Returns:
        The folder, and the names relative to it.

    Raises:
        FileNotFoundError: not all of them are in one folder.
    """
    some = names[:: -(-len(names) // _SAMPLE) or 1]
    # What makes one name of two would find the wrong files.
    ways = [way for way in _WAYS if len(set(map(way, names))) == len(set(names))]
    places = [(shorten, folder) for shorten in ways for folder in folders]
    shorten, folder = max(
        places, key=lambda place: sum((place[1] / place[0](name)).is_file() for name in some)
    )
    missing = [name for name in names if not (folder / shorten(name)).is_file()]
    if missing:
        looked = folders if len(missing) == len(names) else [folder]
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} files that {source} names are missing, the first "
            f"is {missing[0]}; looked in {', '.join(map(str, looked))} (--images DIR adds one)"
        )
    return _below(folder, [shorten(name) for name in names])


def _below(folder: Path, names: list[str]) -> tuple[Path, list[str]]:
    """Whole paths and ``..`` would lead out of any other folder: names below a common one."""
    if not any(os.path.isabs(name) or ".." in Path(name).parts for name in names):
        return folder, names
    paths = [Path(os.path.abspath(folder / name)) for name in names]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return common, [str(path.relative_to(common)) for path in paths]


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _last_part(name: str) -> str:
    return _with_slashes(name).rsplit("/", 1)[-1]


_WAYS: tuple[Callable[[str], str], ...] = (str, _with_slashes, _last_part)


def check_sizes(root: Path, images: Sequence[dict[str, Any]], source: object) -> None:
    """Fills in ``width`` and ``height`` where they are missing, and compares them elsewhere.

    Args:
        root: folder of the images.
        images: COCO's entries; of more than a thousand complete ones, as many are compared.
        source: where they come from, for messages.

    Raises:
        ValueError: an image cannot be read, has another size or too many bits.
    """
    for image in images:
        if not (image.get("width") and image.get("height")):
            image["width"], image["height"] = checked_size(root / image["file_name"])
    step = -(-len(images) // MOST_CHECKED) or 1
    for image in images[::step]:
        path, told = root / image["file_name"], (image["width"], image["height"])
        found = checked_size(path)
        if found != told:
            is_turned = found == told[::-1] and _raw_size(path) == told
            advice = "; its EXIF data turn it, save it without them" if is_turned else ""
            raise ValueError(
                f"{path} is {found[0]} x {found[1]}, {source} says {told[0]} x {told[1]}{advice}"
            )


def checked_size(path: Path) -> tuple[int, int]:
    """Width and height, see ``image_size``, of an image that Detectron2 can take.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it cannot be read, or has one channel of more than 8 bits: Pillow would make
            255 of all that is more.
    """
    size = image_size(path)
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"the image {path} has more than 8 bits per pixel (Pillow's mode {image.mode}), "
                "which training would cut off at 255; save it with 8 bits"
            )
    return size


def _raw_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def map_files(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> Iterator[Any]:
    """Results in the order of the items; ``function`` must be picklable."""
    if len(items) < MANY:
        return map(function, items)
    return parallel_map(function, items, title=title)
