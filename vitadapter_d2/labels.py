"""Label maps on disk, one class number per pixel: reading them and refusing what is none."""

from pathlib import Path

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError


def read_labels(path: str | Path, allow_palette: bool = False) -> np.ndarray:
    """Reads a label map.

    Args:
        path: an image file with one channel of class numbers.
        allow_palette: take the colour numbers of a palette image as class numbers, as Mapillary
            Vistas and PASCAL VOC store them. Elsewhere such a file is mostly a drawing.

    Returns:
        ``(H, W)`` integers, of the type that the file has.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is no image or a damaged one, a colour image or a palette image, or its
            numbers are not whole.
    """
    if not PathManager.isfile(str(path)):
        raise FileNotFoundError(f"the label map {path} does not exist")
    try:
        with PathManager.open(str(path), "rb") as file, Image.open(file) as image:
            mode, labels = image.mode, np.asarray(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"the label map {path} is no image") from error
    except OSError as error:  # Pillow's, of a file that ends too soon, does not name it
        raise ValueError(f"the label map {path} cannot be read: {error}") from error
    if labels.ndim != 2:
        raise ValueError(
            f"the label map {path} must have one channel of class numbers, got a colour image of "
            f"shape {labels.shape} whose first pixel is {labels[0, 0].tolist()}"
        )
    if labels.dtype.kind == "f":
        raise ValueError(f"the label map {path} must have whole numbers, got {labels.dtype}")
    if mode == "P" and not allow_palette:
        values = np.unique(labels)[:5].tolist()
        raise ValueError(
            f"the label map {path} is a palette image with colour numbers {values}...; if these "
            "are class numbers, set allow_palette=True, else save it as one grey channel"
        )
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def check_labels(labels: np.ndarray, num_classes: int, ignore_label: int, source: object) -> None:
    """Raises a ValueError naming ``source`` and the first value that is no class.

    Args:
        labels: ``(H, W)`` integers.
        num_classes: classes are 0 to ``num_classes - 1``.
        ignore_label: legal too.
        source: where the labels come from, for the message.
    """
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if wrong.any():
        raise ValueError(
            f"{source} has class {labels[wrong][0]}, expected one of 0 to {num_classes - 1}, or "
            f"{ignore_label} where it is to be ignored"
        )
