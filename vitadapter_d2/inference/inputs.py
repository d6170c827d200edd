"""Which image files a user's patterns mean."""

from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Files, the images in folders, and what shell patterns match.

    Args:
        patterns: paths of files or folders, or patterns with ``*``, ``?``, ``[...]``, ``**``.

    Returns:
        Files in the order of the patterns, sorted within one, each once. A file that is named is
        taken whatever its suffix; in a folder only images are.

    Raises:
        FileNotFoundError: a path does not exist or a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = _expand(pattern)
        if not files:
            raise FileNotFoundError(f"no image at {pattern}")
        found.update(dict.fromkeys(files))
    return list(found)


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if path.exists() or not has_magic(pattern):
        return [path] if path.is_file() else []
    return sorted(Path(file) for file in glob(str(path), recursive=True) if Path(file).is_file())
