"""Crops of the Potsdam tiles, cut as mmsegmentation's converter (Apache-2.0) cuts them."""

import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vitadapter_d2.data.datasets.potsdam import (
    POTSDAM_SEMANTIC_CATEGORIES,
    POTSDAM_TILES,
    potsdam_paths,
)
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import (
    IGNORE_LABEL,
    Prepared,
    read_picture,
    shift_labels,
)
from vitadapter_d2.files import write_image

CROP = 512
_BLACK = (0, 0, 0)  # borders between objects, which are not evaluated


def prepare_potsdam(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Cut the tiles of a split into crops of 512 pixels; label maps hold 0 to 5, 255 = ignore.

    The crops do not overlap, except that the last of a row or column ends at the border. What
    mmsegmentation's converter left in ``ann_dir`` (0 to 6) is used if it is there.

    Args:
        root: the data root.
        split: ``"train"`` or ``"val"``.
        workers: see ``parallel_map``.
        title: see ``parallel_map``.

    Raises:
        FileNotFoundError: if a tile of the split or its label picture is missing.
        ValueError: if a label picture has another size or is none.
    """
    base, paths = Path(root, "potsdam"), potsdam_paths(root, split)
    converted = base / "ann_dir" / split
    if converted.is_dir():
        num_classes = len(POTSDAM_SEMANTIC_CATEGORIES)
        target = Path(paths.labels)
        return shift_labels(converted, target, num_classes, workers=workers, title=title)
    tiles = [
        (
            name,
            _find_tile(base / "2_Ortho_RGB", name, "RGB"),
            _find_tile(base / "5_Labels_all_noBoundary", name, "label_noBoundary"),
        )
        for name in POTSDAM_TILES[split]
    ]
    cut = partial(_cut_tile, Path(paths.images), Path(paths.labels))
    results = list(parallel_map(cut, tiles, workers, title))
    return Prepared(sum(r.written for r in results), sum(r.total for r in results))


def _find_tile(folder: Path, name: str, kind: str) -> Path:
    """The file ``*_<row>_<column>_<kind>.tif``; numbers may have a leading zero."""
    row, column = name.split("_")
    pattern = re.compile(rf".*_0?{row}_0?{column}_{kind}\.tif")
    for path in sorted(folder.glob(f"*_{kind}.tif")):
        if pattern.fullmatch(path.name):
            return path
    raise FileNotFoundError(f"no *_{name}_{kind}.tif in {folder}")


def _cut_tile(images: Path, labels: Path, tile: tuple[str, Path, Path]) -> Prepared:
    name, image_file, label_file = tile
    with Image.open(image_file) as opened:
        width, height = opened.size
        if min(width, height) < CROP:
            raise ValueError(f"{image_file} is {width} x {height}, smaller than a crop of {CROP}")
        corners = [(x, y) for y in _starts(height) for x in _starts(width)]
        crops = {f"{name}_{x}_{y}_{x + CROP}_{y + CROP}.png": (x, y) for x, y in corners}
        missing = {
            n: c for n, c in crops.items() if not ((labels / n).exists() and (images / n).exists())
        }
        if not missing:
            return Prepared(0, len(crops))
    image = read_picture(image_file, "RGB")
    label_map = _read_label_picture(label_file)
    if label_map.shape != image.shape[:2]:
        raise ValueError(f"{label_file} has size {label_map.shape}, its image {image.shape[:2]}")
    for crop_name, (x, y) in missing.items():
        window = np.s_[y : y + CROP, x : x + CROP]
        write_image(images / crop_name, image[window])
        write_image(labels / crop_name, label_map[window])
    return Prepared(len(missing), len(crops))


def _starts(size: int) -> list[int]:
    return [*range(0, size - CROP, CROP), size - CROP]


def _read_label_picture(path: Path) -> np.ndarray:
    """Colours to classes; the few pixels in other colours that the pictures have are ignored."""
    rgb = read_picture(path, "RGB").astype(np.int32)
    codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    classes = np.full(codes.shape, IGNORE_LABEL, np.uint8)
    is_known = codes == _code(_BLACK)
    for contiguous, category in enumerate(POTSDAM_SEMANTIC_CATEGORIES):
        inside = codes == _code(category.color)
        classes[inside] = contiguous
        is_known |= inside
    if is_known.mean() < 0.5:
        raise ValueError(f"{path} is no label picture: it has colour {rgb[~is_known][0].tolist()}")
    return classes


def _code(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
