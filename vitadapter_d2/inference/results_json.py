"""Predictions as files: JSON in the manner of COCO, label maps as PNGs.

One JSON for each image, with the keys of what the model gives::

    {
      "file_name": "photo.jpg", "height": 480, "width": 640,
      "instances": [{
        "category_id": 18, "category": "dog", "score": 0.93,
        "bbox": [x, y, width, height],
        "segmentation": {"size": [480, 640], "counts": "..."}
      }],
      "panoptic": {
        "file_name": "photo.panoptic.png",
        "segments_info": [{
          "id": 1, "category_id": 18, "category": "dog", "isthing": true, "score": 0.93,
          "area": 1234, "bbox": [x, y, width, height]
        }]
      },
      "semantic": {
        "file_name": "photo.semantic.png", "ignore_label": 255,
        "classes": [{"label": 16, "category_id": 18, "category": "dog", "area": 1234}]
      }
    }

``category_id`` is the number that the data set's own files use, where it has other ones than the
model (COCO: 1 to 90). ``segmentation`` is run-length encoded: ``pycocotools.mask.decode`` gives the
mask; models without masks leave it out. Add an ``image_id`` to each of the ``instances`` and
``pycocotools.coco.COCO.loadRes`` takes the list. The panoptic PNG holds ids as COCO's does,
R + 256 G + 65536 B, 0 where there is no segment. The semantic PNG has one channel of the model's
class numbers (``label``), 16 bits deep for more than 255 classes; ``ignore_label`` marks pixels of
classes that were not asked for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

from vitadapter_d2.files import replacing, write_image
from vitadapter_d2.inference.outputs import PANOPTIC_SUFFIX, SEMANTIC_SUFFIX
from vitadapter_d2.inference.selection import select


def write_results(
    path: Path,
    prediction: Mapping[str, Any],
    metadata: Metadata,
    *,
    file_name: str,
    size: tuple[int, int],
) -> None:
    """Writes the JSON of an image, and the PNGs that it names beside it; the JSON comes last.

    Args:
        path: of the JSON; its suffix is replaced for the PNGs.
        prediction: Detectron2's output dict of the image, whole or of ``select``.
        metadata: class names of the data set, and its own class numbers.
        file_name: of the image, as the JSON shall name it.
        size: height and width of the image.
    """
    prediction = select(prediction, metadata)
    results: dict[str, Any] = {"file_name": file_name, "height": size[0], "width": size[1]}
    if "instances" in prediction:
        results["instances"] = instance_results(prediction["instances"], metadata)
    if "panoptic_seg" in prediction:
        ids = prediction["panoptic_seg"][0].numpy()
        picture = path.with_suffix(PANOPTIC_SUFFIX)
        write_image(picture, np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8))
        infos = panoptic_results(ids, prediction["panoptic_seg"][1], metadata)
        results["panoptic"] = {"file_name": picture.name, "segments_info": infos}
    if "sem_seg" in prediction:
        labels, count = prediction["sem_seg"].labels.numpy(), prediction["sem_seg"].shape[0]
        ignore_label = 255 if count <= 255 else 65535
        picture = path.with_suffix(SEMANTIC_SUFFIX)
        stored = np.where(labels < count, labels, ignore_label)
        write_image(picture, stored.astype(np.uint8 if count <= 255 else np.uint16))
        results["semantic"] = {
            "file_name": picture.name,
            "ignore_label": ignore_label,
            "classes": semantic_results(labels, count, metadata),
        }
    with replacing(path, "w") as file:
        json.dump(results, file, indent=1)


def instance_results(instances: Instances, metadata: Metadata) -> list[dict[str, Any]]:
    """The list ``instances`` of a JSON; ``instances`` are in main memory."""
    boxes = instances.pred_boxes.tensor.numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    classes = _Classes(metadata, "thing")
    results = []
    for index in range(len(instances)):
        result = {
            **classes.entry(int(instances.pred_classes[index])),
            "score": round(float(instances.scores[index]), 6),
            "bbox": [round(value, 3) for value in boxes[index].tolist()],
        }
        if instances.has("pred_masks"):
            result["segmentation"] = _encode(instances.pred_masks[index].numpy())
        results.append(result)
    return results


def panoptic_results(
    ids: np.ndarray, infos: Sequence[Mapping[str, Any]], metadata: Metadata
) -> list[dict[str, Any]]:
    """The list ``segments_info`` of a JSON for ``(H, W)`` segment ids."""
    results = []
    for info in infos:
        is_thing = bool(info["isthing"])
        classes = _Classes(metadata, "thing" if is_thing else "stuff")
        mask = ids == info["id"]
        result = {"id": int(info["id"]), **classes.entry(int(info["category_id"]))}
        result["isthing"] = is_thing
        if "score" in info:
            result["score"] = round(float(info["score"]), 6)
        results.append({**result, "area": int(mask.sum()), "bbox": _box(mask)})
    return results


def semantic_results(labels: np.ndarray, count: int, metadata: Metadata) -> list[dict[str, Any]]:
    """The list ``classes`` of a JSON: those of ``(H, W)`` labels below ``count``, largest first."""
    areas = np.bincount(labels.ravel(), minlength=count)[:count]
    classes = _Classes(metadata, "stuff")
    present = [int(label) for label in np.argsort(-areas, kind="stable") if areas[label]]
    return [
        {"label": label, **classes.entry(label), "area": int(areas[label])} for label in present
    ]


class _Classes:
    """Names and own numbers of a data set's classes.

    Args:
        metadata: of the data set.
        kind: "thing" or "stuff".
    """

    def __init__(self, metadata: Metadata, kind: str) -> None:
        self.names = metadata.get(f"{kind}_classes") or ()
        numbers = metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}
        self.own_numbers = {contiguous: own for own, contiguous in numbers.items()}

    def entry(self, label: int) -> dict[str, Any]:
        """What a JSON says of a class; the name of one without is its number."""
        name = self.names[label] if label < len(self.names) else str(label)
        return {"category_id": int(self.own_numbers.get(label, label)), "category": name}


def _encode(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def _box(mask: np.ndarray) -> list[int]:
    """``x, y, width, height``; zeros for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return [0, 0, 0, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
