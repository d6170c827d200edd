"""Which pictures and videos a user's patterns mean, and what is in a picture's file."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)


@dataclass(frozen=True)
class Input:
    """A file to look at.

    Attributes:
        path: of the file.
        place: the same, seen from the folder that was named, or from where the wildcards of a
            pattern begin; only the name of a file that was named itself.
        is_video: rather than a picture.
    """

    path: Path
    place: Path
    is_video: bool = False


def find_inputs(
    patterns: Iterable[str], output: Path | None = None
) -> tuple[list[Input], list[str]]:
    """Files, the pictures and videos in folders at any depth, and what shell patterns match.

    Args:
        patterns: paths of files or folders, or patterns with ``*``, ``?``, ``[...]``, ``**``.
        output: a folder that is left out where it lies in one of the folders: what was drawn
            before is no input.

    Returns:
        Files in the order of the patterns, sorted within one, each once, and the patterns that
        there is nothing at. A file that is named is taken whatever its suffix, as a video if it has
        the suffix of one; in a folder only files with known suffixes that are not hidden.
    """
    found: dict[Path, Input] = {}
    missing = []
    for pattern in patterns:
        files = list(_expand(pattern, output))
        if not files:
            missing.append(pattern)
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values()), missing


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture as Detectron2's ``read_image`` does, and deep ones too.

    EXIF rotation is applied, grey, palette and CMYK become colours, what is transparent shows the
    colours below. 16-bit grey, where ``read_image`` gives white, is divided by 257.

    Returns:
        ``(H, W, 3)`` uint8 in BGR order.

    Raises:
        ValueError: its numbers are floating-point ones or beyond 16 bits.
        OSError: the file cannot be read, and almost anything else on a damaged one.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode[0] in "IF":
            picture = Image.fromarray(_eight_bits(np.asarray(picture)))
        elif "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Pillow warns of a direct way to RGB
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])


def _eight_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"pixels must have 8 or 16 bits, got {values.dtype} from {values.min()} to "
            f"{values.max()}: convert the picture first"
        )
    return np.round(values / 257).astype(np.uint8)


def _expand(pattern: str, output: Path | None) -> Iterator[Input]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        yield from _walk(path, output)
    elif path.is_file():
        yield _input(path, path.parent)
    elif has_magic(pattern):
        root = _fixed_part(path)
        for name in sorted(glob(str(path), recursive=True)):
            if Path(name).is_file():
                yield _input(Path(name), root)


def _walk(root: Path, output: Path | None) -> Iterator[Input]:
    left_out = None if output is None else output.resolve()
    files = []
    for name, folders, names in os.walk(root):
        folder = Path(name)
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".") and (folder / each).resolve() != left_out
        ]
        files += [folder / each for each in names if not each.startswith(".")]
    for path in sorted(files):
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            yield _input(path, root)


def _input(path: Path, root: Path) -> Input:
    return Input(path, path.relative_to(root), path.suffix.lower() in VIDEO_SUFFIXES)


def _fixed_part(pattern: Path) -> Path:
    """The folder above the first part with a wildcard."""
    return next(parent for parent in reversed(pattern.parents) if _is_next_wild(parent, pattern))


def _is_next_wild(parent: Path, pattern: Path) -> bool:
    return has_magic(pattern.relative_to(parent).parts[0])
