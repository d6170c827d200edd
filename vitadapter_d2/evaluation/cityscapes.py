"""Instance segmentation of Cityscapes by the rules of its benchmark.

The rules are those of cityscapesscripts' (MIT) ``evalInstanceLevelSemanticLabeling``, which
Detectron2's ``CityscapesInstanceEvaluator`` calls. They are written anew because that script does
not run with NumPy 2.4, the evaluator imports a module that is not public on Detectron2's main
branch, and both exchange every mask as a file.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from vitadapter_d2.labels import read_labels

logger = logging.getLogger(__name__)

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
"""An object is found if the IoU is larger."""
MIN_PIXELS = 100
"""Smaller objects are neither to be found nor wrong to find."""
_OBJECT_BASE = 1000  # a pixel is label id x 1000 + number in an object, else the label id
_NUM_LABELS = 34
_IMAGE_SUFFIX = "_leftImg8bit"
_IDS = {c["name"]: c["id"] for c in CITYSCAPES_CATEGORIES if c["isthing"]}
_VOID = sorted(set(range(_NUM_LABELS)) - {c["id"] for c in CITYSCAPES_CATEGORIES})


@dataclass(frozen=True)
class ClassMatches:
    """One class in one image: n predictions, m annotated regions of the class.

    Attributes:
        scores: ``(n,)``.
        sizes: ``(n,)`` pixels of the predictions, none of them empty.
        void: ``(n,)`` how many of them lie where nothing is evaluated.
        region_sizes: ``(m,)`` pixels of the regions.
        is_group: ``(m,)`` bool, several objects that were annotated together.
        shared: ``(n, m)`` pixels that a prediction and a region share.
    """

    scores: np.ndarray
    sizes: np.ndarray
    void: np.ndarray
    region_sizes: np.ndarray
    is_group: np.ndarray
    shared: np.ndarray


class CityscapesInstanceEvaluator(DatasetEvaluator):
    """AP and AP50 of Cityscapes, with the numbers and keys of Detectron2's evaluator.

    Other than that one it needs no package, writes nothing, works on several machines and scores
    the images that it has seen, which may be a part of the data set.

    Args:
        dataset_name: registered name; its metadata have ``thing_classes``, the names that predicted
            classes stand for, and ``gt_dir``, the folder of the cities.
        distributed: put together what all processes have seen.
    """

    def __init__(self, dataset_name: str, distributed: bool = True) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self.class_names: list[str] = list(metadata.thing_classes)
        self.label_root = Path(metadata.gt_dir)
        self.distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._matches: list[dict[str, ClassMatches]] = []

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Compares the masks of some images with the annotations.

        Args:
            inputs: each with the ``file_name`` of an image, ``<city>_..._leftImg8bit.png``.
            outputs: each with ``instances``: ``pred_masks`` ``(N, H, W)`` at the size of the label
                map, ``pred_classes`` and ``scores``.

        Raises:
            FileNotFoundError: a label map does not exist.
            ValueError: the masks have another size than the label map.
        """
        for record, output in zip(inputs, outputs, strict=True):
            stem = Path(record["file_name"]).stem.removesuffix(_IMAGE_SUFFIX)
            path = self.label_root / stem.partition("_")[0] / f"{stem}_gtFine_instanceIds.png"
            instances = output["instances"]
            masks = instances.pred_masks.cpu().numpy().astype(bool)
            labels = read_labels(path)
            if masks.shape[1:] != labels.shape:
                raise ValueError(
                    f"the masks of {record['file_name']} have size {masks.shape[1:]}, its label "
                    f"map {labels.shape}"
                )
            classes = [self.class_names[c] for c in instances.pred_classes.tolist()]
            scores = instances.scores.cpu().numpy()
            self._matches.append(match(labels, masks, classes, scores))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Computes the metrics of all images since ``reset``.

        Returns:
            ``{"segm": metrics}``, in percent: ``AP``, ``AP50``, ``AP-<class>``; NaN for a class
            without an object. None but on the main process.
        """
        matches = self._matches
        if self.distributed:
            gathered = comm.gather(matches)
            if not comm.is_main_process():
                return None
            matches = list(chain.from_iterable(gathered))
        precisions = {
            name: [average_precision([m[name] for m in matches], t) for t in THRESHOLDS]
            for name in _IDS
        }
        table = 100 * np.array(list(precisions.values()))
        metrics = {"AP": _mean(table), "AP50": _mean(table[:, 0])}
        metrics |= {f"AP-{name}": float(row.mean()) for name, row in zip(_IDS, table, strict=True)}
        rows = [[name, row.mean(), row[0]] for name, row in zip(_IDS, table, strict=True)]
        rows.append(["mean", metrics["AP"], metrics["AP50"]])
        headers = ["class", "AP", "AP50"]
        logger.info("\n%s", tabulate(rows, headers, floatfmt=".2f", tablefmt="pipe"))
        return OrderedDict(segm=metrics)


def _mean(values: np.ndarray) -> float:
    """Mean without the NaN of absent classes; NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def match(
    labels: np.ndarray, masks: np.ndarray, classes: Sequence[str], scores: np.ndarray
) -> dict[str, ClassMatches]:
    """Counts the pixels that predictions share with annotated regions.

    Args:
        labels: ``(H, W)`` values of an ``instanceIds`` file.
        masks: ``(N, H, W)`` bool.
        classes: names of the N predictions; those of another class are left out.
        scores: ``(N,)``.
    """
    values, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    numbers = numbers.reshape(labels.shape)
    counts = [np.bincount(numbers[mask], minlength=len(values)) for mask in masks]
    shared = np.array(counts, np.int64).reshape(len(masks), len(values))
    pixels = shared.sum(axis=1)
    void = shared[:, np.isin(values, _VOID)].sum(axis=1)
    label_ids = np.where(values >= _OBJECT_BASE, values // _OBJECT_BASE, values)
    found = {}
    for name, label_id in _IDS.items():
        rows = np.array([c == name for c in classes], bool) & (pixels > 0)
        columns = label_ids == label_id
        found[name] = ClassMatches(
            scores=scores[rows],
            sizes=pixels[rows],
            void=void[rows],
            region_sizes=sizes[columns],
            is_group=values[columns] < _OBJECT_BASE,
            shared=shared[rows][:, columns],
        )
    return found


def average_precision(matches: Sequence[ClassMatches], threshold: float) -> float:
    """AP of one class at one threshold of the IoU, at least 0.5.

    Returns:
        In [0, 1]; NaN if there is no object to be found.
    """
    judged = [_judge(one, threshold) for one in matches]
    num_objects = sum(count for _, _, count in judged)
    if not num_objects:
        return float("nan")
    scores = np.concatenate([scores for scores, _, _ in judged])
    if not len(scores):
        return 0.0
    is_right = np.concatenate([is_right for _, is_right, _ in judged])
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_right[order])
    # One point of the curve for each distinct score, from the lowest to the highest, and (0, 1).
    last_of_score = np.flatnonzero(np.diff(-scores[order], append=np.inf))[::-1]
    precision = np.append(right[last_of_score] / (last_of_score + 1), 1.0)
    recall = np.append(right[last_of_score] / num_objects, 0.0)
    # Each point stands for half of the way to its neighbours.
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:]) / 2)


def _judge(one: ClassMatches, threshold: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and whether they are right, of the predictions that count, and number of objects."""
    iou = one.shared / (one.sizes[:, None] + one.region_sizes - one.shared)
    is_small = one.region_sizes < MIN_PIXELS
    is_object = ~(one.is_group | is_small)
    fits = iou > threshold
    scores, is_right = [], []
    for column in np.flatnonzero(is_object):
        found = np.sort(one.scores[fits[:, column]])[::-1]
        scores.append(found)  # all but the best are doubles
        is_right.append(np.arange(len(found)) == 0)
    # A group that is too small is counted twice, as in the benchmark's own script.
    ignored = one.void + one.shared @ (one.is_group.astype(np.int64) + is_small)
    is_wrong = ~fits.any(axis=1) & (ignored / one.sizes <= threshold)
    scores.append(one.scores[is_wrong])
    is_right.append(np.zeros(is_wrong.sum(), bool))
    return np.concatenate(scores), np.concatenate(is_right), int(is_object.sum())
