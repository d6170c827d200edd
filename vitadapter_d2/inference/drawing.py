"""Pictures of predictions and of annotations."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from torch import Tensor

from vitadapter_d2.inference.painting import (
    InstanceColors,
    Painting,
    stuff_color,
)
from vitadapter_d2.inference.selection import select
from vitadapter_d2.inference.semantic import SemanticLabels

# Labels are unreadable on small images: these are enlarged to this short side before drawing.
_SHORT_SIDE = 384


def draw_prediction(
    image: np.ndarray,
    prediction: Mapping[str, Any],
    metadata: Metadata,
    threshold: float = 0.5,
    *,
    alpha: float = 0.6,
    colors: InstanceColors | None = None,
    is_enlarged: bool = True,
) -> np.ndarray:
    """Draws the richest output that a model gave: panoptic, else instances, else semantic.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        prediction: Detectron2's output dict of the image, whole or of ``select``.
        metadata: class names and colours of the data set.
        threshold: instances with a lower score are left out; in [0, 1].
        alpha: weight of the colours against the image, in [0, 1].
        colors: of the video that the image is a frame of; None takes new ones.
        is_enlarged: enlarge small images, so that there is room for labels.

    Returns:
        ``(H', W', 3)`` uint8 RGB, at least 384 pixels on the short side if ``is_enlarged``.

    Raises:
        ValueError: the prediction has nothing that can be drawn.
    """
    factor = max(1, -(-_SHORT_SIDE // min(image.shape[:2]))) if is_enlarged else 1
    painting = Painting(image, metadata, alpha, factor)
    colors = colors or InstanceColors(metadata)
    selected = select(prediction, metadata, threshold)
    if "panoptic_seg" in selected:
        ids, infos = selected["panoptic_seg"]
        _paint_panoptic(painting, ids, infos, colors)
    elif "instances" in selected:
        _paint_instances(painting, selected["instances"], colors)
    elif "sem_seg" in selected:
        _paint_semantic(painting, selected["sem_seg"])
    else:
        raise ValueError(f"nothing to draw in a prediction with {sorted(prediction)}")
    return painting.finish()


def _paint_panoptic(
    painting: Painting, ids: Tensor, infos: Sequence[Mapping[str, Any]], colors: InstanceColors
) -> None:
    things = [info for info in infos if info["isthing"]]
    for info in infos:
        if not info["isthing"]:
            label = info["category_id"]
            name = _name(painting.metadata, "stuff_classes", label)
            painting.mask(ids.numpy() == info["id"], stuff_color(painting.metadata, label), name)
    boxes = torch.zeros(len(things), 4)
    for index, info in enumerate(things):  # one mask at a time: large pictures have large masks
        boxes[index] = BitMasks(ids[None] == info["id"]).get_bounding_boxes().tensor[0]
    shades = colors(boxes, [info["category_id"] for info in things])
    for info, color in zip(things, shades, strict=True):
        name = _name(painting.metadata, "thing_classes", info["category_id"])
        score = f" {info['score']:.0%}" if "score" in info else ""
        painting.mask(ids.numpy() == info["id"], color, name + score)


def _paint_instances(painting: Painting, instances: Instances, colors: InstanceColors) -> None:
    labels = instances.pred_classes.tolist()
    boxes = instances.pred_boxes
    shades = colors(boxes.tensor, labels)
    order = boxes.area().argsort(descending=True).tolist()  # small ones on top
    if instances.has("pred_masks"):
        for index in order:
            painting.mask(instances.pred_masks[index].numpy(), shades[index])
    for index in order:
        name = _name(painting.metadata, "thing_classes", labels[index])
        text = f"{name} {float(instances.scores[index]):.0%}"
        painting.box(boxes.tensor[index].tolist(), shades[index], text)


def _paint_semantic(painting: Painting, semantic: SemanticLabels) -> None:
    labels = semantic.labels.numpy()
    numbers, areas = np.unique(labels, return_counts=True)
    for number in numbers[np.argsort(-areas)].tolist():
        if number < semantic.shape[0]:
            name = _name(painting.metadata, "stuff_classes", number)
            painting.mask(labels == number, stuff_color(painting.metadata, number), name)


def _name(metadata: Metadata, key: str, label: int) -> str:
    names = metadata.get(key) or ()
    return names[label] if label < len(names) else str(label)


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
    return _PlainTextVisualizer(image, metadata, scale=scale, instance_mode=mode)


class _PlainTextVisualizer(Visualizer):
    """Matplotlib takes what is between two dollar signs for a formula, and may fail at it."""

    def draw_text(self, text: str, *args: Any, **kwargs: Any) -> Any:
        return super().draw_text(text.replace("$", r"\$"), *args, **kwargs)
