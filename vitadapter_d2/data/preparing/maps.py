"""Label maps of Cityscapes, COCO-Stuff, Mapillary Vistas and CHASE DB1 for training.

Each function takes the data root and a split, skips what exists, and raises FileNotFoundError or
ValueError naming the file that is missing or wrong.
"""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from vitadapter_d2.data.datasets.chase_db1 import chase_db1_paths
from vitadapter_d2.data.datasets.cityscapes import CITYSCAPES_SEMANTIC_CATEGORIES
from vitadapter_d2.data.datasets.coco import COCO_PANOPTIC_CATEGORIES, coco_panoptic_paths
from vitadapter_d2.data.datasets.coco_stuff import coco_stuff_10k_paths, coco_stuff_164k_paths
from vitadapter_d2.data.datasets.coco_stuff_categories import COCO_STUFF_CATEGORIES
from vitadapter_d2.data.datasets.mapillary import mapillary_paths, mapillary_to_cityscapes
from vitadapter_d2.data.parallel import parallel_map
from vitadapter_d2.data.preparing.label_maps import (
    IGNORE_LABEL,
    Prepared,
    convert_labels,
    find_files,
    map_labels,
    panoptic_to_semantic,
    read_picture,
)
from vitadapter_d2.files import replacing, write_image

_RAW_STUFF = {raw_id: i for i, (raw_id, _, _) in enumerate(COCO_STUFF_CATEGORIES)}
_NUM_CITYSCAPES_LABELS = 34
_CHASE_TRAINING_IMAGES = 20


def prepare_cityscapes(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write ``*_labelTrainIds.png`` (0 to 18, 255) beside each ``*_labelIds.png`` (0 to 33)."""
    sources = find_files(Path(root, "cityscapes", "gtFine", split), "*/*_gtFine_labelIds.png")
    pairs = [(s, s.with_name(s.name.replace("labelIds", "labelTrainIds"))) for s in sources]
    mapping = dict.fromkeys(range(_NUM_CITYSCAPES_LABELS), IGNORE_LABEL)
    mapping |= {c.id: i for i, c in enumerate(CITYSCAPES_SEMANTIC_CATEGORIES)}
    return convert_labels(pairs, mapping, workers=workers, title=title)


def prepare_mapillary(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write ``labels_cityscapes`` (0 to 18, 255) from ``labels`` (0 to 65)."""
    source_root = Path(mapillary_paths(root, split).labels)
    target_root = Path(mapillary_paths(root, split, "labels_cityscapes").labels)
    pairs = [(source, target_root / source.name) for source in find_files(source_root, "*.png")]
    return convert_labels(
        pairs, mapillary_to_cityscapes(), allow_palette=True, workers=workers, title=title
    )


def prepare_coco_panoptic(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write ``panoptic_semseg_<split>2017`` (0 to 132, 255) from the panoptic annotations."""
    paths = coco_panoptic_paths(root, split)
    return panoptic_to_semantic(
        Path(paths.panoptic_json),
        Path(paths.panoptic),
        Path(paths.semantic),
        {category.id: i for i, category in enumerate(COCO_PANOPTIC_CATEGORIES)},
        workers=workers,
        title=title,
    )


def prepare_coco_stuff_164k(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write ``stuffthingmaps_detectron2`` (0 to 170) from ``stuffthingmaps`` (0 to 181)."""
    source_root = Path(root, "coco", "stuffthingmaps", f"{split}2017")
    target_root = Path(coco_stuff_164k_paths(root, split).labels)
    pairs = [(source, target_root / source.name) for source in find_files(source_root, "*.png")]
    # A pixel is the label id minus one.
    mapping = {raw_id - 1: i for raw_id, i in _RAW_STUFF.items()} | {IGNORE_LABEL: IGNORE_LABEL}
    return convert_labels(pairs, mapping, allow_palette=True, workers=workers, title=title)


def prepare_coco_stuff_10k(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Write label maps (0 to 170, 255) from version 1.1's ``.mat`` files, and link the images."""
    base = Path(root, "coco", "coco_stuff_10k")
    listing = base / "imageLists" / f"{split}.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing} does not exist")
    names = listing.read_text(encoding="utf-8").split()
    paths = coco_stuff_10k_paths(root, split)
    convert = partial(_prepare_stuff_image, base, Path(paths.images), Path(paths.labels))
    return Prepared(sum(parallel_map(convert, names, workers, title)), len(names))


def _prepare_stuff_image(base: Path, images: Path, labels: Path, name: str) -> bool:
    _link(base / "images" / f"{name}.jpg", images / f"{name}.jpg")
    target = labels / f"{name}.png"
    if target.exists():
        return False
    source = base / "annotations" / f"{name}.mat"
    raw = _read_mat(source)
    write_image(target, map_labels(raw, {0: IGNORE_LABEL, **_RAW_STUFF}, source))
    return True


def _read_mat(path: Path) -> np.ndarray:
    """Read the label map ``S`` of COCO-Stuff 10K, version 1.1: ``(H, W)`` label ids."""
    from scipy.io import loadmat  # here, because registering the data sets does not need it

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return loadmat(path, variable_names=["S"])["S"]
    except NotImplementedError as error:  # a MATLAB 7.3 file
        raise ValueError(
            f"{path} belongs to version 1.0 of COCO-Stuff 10K, which codes the classes otherwise; "
            "download version 1.1"
        ) from error
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no label map of COCO-Stuff 10K: {error}") from error


def _link(source: Path, target: Path) -> None:
    """Let a second name stand for a file, or copy it where the file system knows no links."""
    if target.exists():
        return
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as original, replacing(target) as file:
            shutil.copyfileobj(original, file)


def prepare_chase_db1(
    root: str, split: str, *, workers: int | None = None, title: str | None = None
) -> Prepared:
    """Sort the downloaded files into splits; label maps become 0 and 1, images PNG files.

    The first 20 images by name are for training, the other 8 for validation.
    """
    base = Path(root, "CHASE_DB1")
    paths = chase_db1_paths(root, split)
    if not any(base.glob("Image_*.jpg")) and Path(paths.labels).is_dir():
        total = len(find_files(Path(paths.labels), f"*{paths.label_suffix}"))
        return Prepared(0, total)  # converted elsewhere: the layout is mmsegmentation's
    sources = find_files(base, "Image_*.jpg")
    if split == "train":
        sources = sources[:_CHASE_TRAINING_IMAGES]
    else:
        sources = sources[_CHASE_TRAINING_IMAGES:]
    convert = partial(_prepare_retina, Path(paths.images), Path(paths.labels))
    return Prepared(sum(parallel_map(convert, sources, workers, title)), len(sources))


def _prepare_retina(images: Path, labels: Path, source: Path) -> bool:
    image_file = images / f"{source.stem}.png"
    label_file = labels / f"{source.stem}_1stHO.png"
    if label_file.exists() and image_file.exists():
        return False
    drawing = source.with_name(label_file.name)
    if not drawing.is_file():
        raise FileNotFoundError(f"{drawing} does not exist, the label map of {source}")
    write_image(image_file, read_picture(source, "RGB"))
    write_image(label_file, read_picture(drawing, "L") // 128)
    return True
