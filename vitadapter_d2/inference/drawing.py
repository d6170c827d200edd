"""Pictures of predictions and of annotations."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer

# Labels are unreadable on small images: these are enlarged to this short side before drawing.
_SHORT_SIDE = 384


def draw_prediction(
    image: np.ndarray, prediction: Mapping[str, Any], metadata: Metadata, threshold: float = 0.5
) -> np.ndarray:
    """Draws the richest output that a model gave: panoptic, else instances, else semantic.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        prediction: Detectron2's output dict of the image.
        metadata: class names and colours of the data set.
        threshold: instances with a lower score are left out; in [0, 1].

    Returns:
        ``(H', W', 3)`` uint8 RGB, at least 384 pixels on the short side.
    """
    visualizer = _visualizer(image, metadata)
    if "panoptic_seg" in prediction:
        segments, infos = prediction["panoptic_seg"]
        drawn = visualizer.draw_panoptic_seg(segments.cpu(), infos)
    elif "instances" in prediction:
        instances = prediction["instances"].to("cpu")
        drawn = visualizer.draw_instance_predictions(instances[instances.scores >= threshold])
    elif "sem_seg" in prediction:
        drawn = visualizer.draw_sem_seg(prediction["sem_seg"].argmax(dim=0).cpu())
    else:
        raise ValueError(f"nothing to draw in a prediction with {sorted(prediction)}")
    return drawn.get_image()


def draw_annotation(image: np.ndarray, record: Mapping[str, Any], metadata: Metadata) -> np.ndarray:
    """Draws the ground truth of a Detectron2 data set record; sizes as in `draw_prediction`."""
    return _visualizer(image, metadata).draw_dataset_dict(dict(record)).get_image()


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Joins pictures ``(H, W, 3)`` from left to right on white; the first sets the height."""
    height = pictures[0].shape[0]
    joined: list[np.ndarray] = []
    for picture in pictures:
        width = round(picture.shape[1] * height / picture.shape[0])
        spacer = np.full((height, gap, 3), 255, np.uint8)
        joined += [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), spacer]
    return np.concatenate(joined[:-1], axis=1)


def stack(rows: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Stacks pictures from top to bottom on white, left-aligned."""
    width = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(
            row, 0, gap, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for row in rows
    ]
    return np.concatenate(padded, axis=0)[:-gap]


def _visualizer(image: np.ndarray, metadata: Metadata) -> Visualizer:
    scale = max(1, -(-_SHORT_SIDE // min(image.shape[:2])))
    has_palette = metadata.get("thing_colors") is not None
    mode = ColorMode.SEGMENTATION if has_palette else ColorMode.IMAGE
    return Visualizer(image, metadata, scale=scale, instance_mode=mode)
