"""Where results go: beside no other result, and never over an input."""

from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path

from vitadapter_d2.inference.inputs import Input

PANOPTIC_SUFFIX = ".panoptic.png"
SEMANTIC_SUFFIX = ".semantic.png"
_PICTURE_FAMILY = (".json", PANOPTIC_SUFFIX, SEMANTIC_SUFFIX)
_VIDEO_FAMILY = (".mp4", ".avi", ".mkv", ".webm", ".frames")


def output_paths(
    inputs: Sequence[Input], folder: Path, suffix: str = ".png", is_flat: bool = False
) -> list[Path]:
    """One result each, and room for the files that may stand beside it.

    A name that is taken, also by one of the inputs, gets a number.

    Args:
        inputs: files to look at.
        folder: below it the places of the inputs are mirrored.
        suffix: of pictures; that of videos is ``.mp4``.
        is_flat: put all results into ``folder`` itself.

    Returns:
        Paths of different stems.
    """
    folder = folder.resolve()
    # Of an input that is a link, neither the link nor the file may be overwritten.
    taken = {path for file in inputs for path in (file.path.resolve(), _own_place(file.path))}
    numbered: dict[Path, Iterator[str]] = {}
    paths = []
    for file in inputs:
        place = Path(file.place.name) if is_flat else file.place
        base = folder / place.with_name(place.stem)
        stems = numbered.setdefault(base, _numbered(base.name))
        family, own = (_VIDEO_FAMILY, ".mp4") if file.is_video else (_PICTURE_FAMILY, suffix)
        for stem in stems:
            members = [base.with_name(stem + member) for member in (own, *family)]
            if taken.isdisjoint(members):
                break
        taken.update(members)
        paths.append(members[0])
    return paths


def _numbered(name: str) -> Iterator[str]:
    return chain([name], (f"{name}_{number}" for number in count(2)))


def _own_place(path: Path) -> Path:
    return path.parent.resolve() / path.name
