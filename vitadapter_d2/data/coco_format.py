"""COCO's annotation format: masks, boxes and panoptic colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def read_json(path: str | Path) -> Any:
    """Read a JSON file in UTF-8, with a byte order mark or without.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no JSON file or a damaged one.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except ValueError as error:  # of the JSON or of its encoding; neither names the file
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def describe_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return ``area``, ``bbox`` (x, y, width, height) and ``iscrowd`` of a non-empty mask.

    Args:
        mask: ``(H, W)`` bool.
    """
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    box = (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)
    return {"area": int(mask.sum()), "bbox": [int(v) for v in box], "iscrowd": 0}


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Run-length encode a mask for a JSON file: lossless, holes included.

    Args:
        mask: ``(H, W)`` bool.
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Decode panoptic colours, ``(H, W, 3)`` uint8, to ``(H, W)`` int32, R + 256 G + 65536 B."""
    rgb = rgb.astype(np.int32)
    return rgb[..., 0] + (rgb[..., 1] << 8) + (rgb[..., 2] << 16)


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Encode ``(H, W)`` integers in [0, 2**24) as colours, ``(H, W, 3)`` uint8."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
