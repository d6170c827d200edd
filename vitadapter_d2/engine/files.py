"""Writing files so that a reader never meets half of one."""

import os
from pathlib import Path

import cv2
import numpy as np


def write_bytes(path: Path, data: bytes) -> None:
    """Writes to a temporary name beside ``path``, flushes, renames; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an ``(H, W, 3)`` uint8 RGB image in the format of the path's suffix.

    Raises:
        ValueError: OpenCV knows no such format.
    """
    try:
        _, encoded = cv2.imencode(path.suffix, image[:, :, ::-1])
    except cv2.error as error:
        raise ValueError(f"cannot write {path}: no image format {path.suffix!r}") from error
    write_bytes(path, encoded.tobytes())
