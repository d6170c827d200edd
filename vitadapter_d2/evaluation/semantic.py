"""Semantic segmentation metrics by the rules of the published numbers."""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from vitadapter_d2.files import replacing
from vitadapter_d2.labels import check_labels, read_labels

logger = logging.getLogger(__name__)

# Pixels that are counted at once; one needs 8 bytes.
_CHUNK = 1 << 20


class SemanticEvaluator(DatasetEvaluator):
    """IoU, accuracy and Dice of each class over a whole data set, and their means.

    The numbers are mmsegmentation's and therefore the published ones. Detectron2's
    ``SemSegEvaluator`` gives the same with v0.6; its later versions leave a class out of the mean
    that is predicted but never annotated, which counts as 0 here. Other than Detectron2's it keeps
    no predictions, one K x K matrix is all that it holds and gathers.

    Args:
        dataset_name: registered name; its records have ``sem_seg_file_name``, its metadata
            ``stuff_classes`` and ``ignore_label``.
        output_dir: where ``sem_seg_evaluation.json`` is written; None writes nothing.
        distributed: add up what all processes have seen.
        allow_palette: see ``read_labels``; None takes the metadata's ``palette_labels``.

    Raises:
        ValueError: a record of the data set has no label map.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        distributed: bool = True,
        allow_palette: bool | None = None,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self.dataset_name = dataset_name
        self.class_names: list[str] = [name.strip() for name in metadata.stuff_classes]
        self.ignore_label: int = metadata.ignore_label
        self.output_dir = output_dir
        self.distributed = distributed
        if allow_palette is None:
            allow_palette = bool(metadata.get("palette_labels", False))
        self.allow_palette = allow_palette
        self.label_files = _label_files(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        num_classes = len(self.class_names)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        """Counts the pixels of some images.

        Args:
            inputs: each with the ``file_name`` of a record of the data set.
            outputs: each with ``sem_seg``: scores (K, H, W), or already the class of each pixel
                (H, W), at the size of the label map.

        Raises:
            FileNotFoundError: a label map does not exist.
            ValueError: a label map has colours or a value that is no class, or the prediction
                does not fit it.
        """
        for record, output in zip(inputs, outputs, strict=True):
            file_name = record["file_name"]
            if file_name not in self.label_files:
                raise ValueError(f"{file_name} is no image of {self.dataset_name}")
            path = self.label_files[file_name]
            labels = read_labels(path, self.allow_palette)
            check_labels(labels, len(self.class_names), self.ignore_label, path)
            predicted = self._classes(output["sem_seg"], labels.shape, file_name)
            self._confusion += confusion_matrix(
                labels, predicted, len(self.class_names), self.ignore_label
            )

    def _classes(self, prediction: Any, size: tuple[int, ...], file_name: str) -> np.ndarray:
        """The class of each pixel.

        Args:
            prediction: a tensor, or what has its ``shape`` and ``argmax`` over the classes.
            size: of the label map.
            file_name: of the image, for messages.
        """
        num_classes, shape = len(self.class_names), tuple(prediction.shape)
        has_scores = len(shape) == 3
        if has_scores and shape[0] != num_classes:
            raise ValueError(
                f"the prediction of {file_name} has {shape[0]} classes, {self.dataset_name} has "
                f"{num_classes}"
            )
        if shape[-2:] != size:
            raise ValueError(
                f"the prediction of {file_name} has size {shape[-2:]}, its label map {size}"
            )
        classes = (prediction.argmax(dim=0) if has_scores else prediction).cpu().numpy()
        if not has_scores:
            check_labels(classes, num_classes, 0, f"the prediction of {file_name}")
        return classes

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Computes the metrics of all images since ``reset``.

        Returns:
            ``{"sem_seg": metrics}``, in percent: ``mIoU, mAcc, aAcc, mDice, fwIoU``; ``mACC`` and
            ``pACC``, as Detectron2 names the second and the third; ``IoU-<class>``,
            ``ACC-<class>`` and ``Dice-<class>``, NaN for a class that does not occur. None but on
            the main process.
        """
        confusion = self._confusion
        if self.distributed:
            gathered = comm.gather(confusion)
            if not comm.is_main_process():
                return None
            confusion = np.sum(gathered, axis=0)
        if not confusion.any():
            logger.warning("%s has no labelled pixel: every metric is NaN", self.dataset_name)
        metrics = semantic_metrics(confusion, self.class_names)
        logger.info("%s, by class:\n%s", self.dataset_name, class_table(metrics, self.class_names))
        if self.output_dir:
            self._write(Path(self.output_dir) / "sem_seg_evaluation.json", metrics)
        return OrderedDict(sem_seg=metrics)

    def _write(self, path: Path, metrics: Mapping[str, float]) -> None:
        # JSON knows no NaN.
        values = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        with replacing(path, "w") as file:
            file.write(json.dumps({"dataset": self.dataset_name, **values}, indent=1))


def _label_files(dataset_name: str) -> dict[str, str]:
    files = {}
    for record in DatasetCatalog.get(dataset_name):
        if "sem_seg_file_name" not in record:
            raise ValueError(f"{record['file_name']} of {dataset_name} has no sem_seg_file_name")
        files[record["file_name"]] = record["sem_seg_file_name"]
    return files


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Counts pixels by annotated and predicted class.

    Args:
        labels: ``(H, W)`` classes in [0, num_classes) or ``ignore_label``.
        predicted: ``(H, W)`` classes in [0, num_classes).
        num_classes: K.
        ignore_label: pixels with this label are not counted.

    Returns:
        ``(K, K)`` int64, a row for each annotated and a column for each predicted class.
    """
    counts = np.zeros(num_classes * num_classes, np.int64)
    labels, predicted = labels.reshape(-1), predicted.reshape(-1)
    for start in range(0, labels.size, _CHUNK):
        chunk = labels[start : start + _CHUNK]
        is_labelled = chunk != ignore_label
        pairs = chunk[is_labelled].astype(np.int64) * num_classes
        pairs += predicted[start : start + _CHUNK][is_labelled]
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(num_classes, num_classes)


def semantic_metrics(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Computes the metrics that :meth:`SemanticEvaluator.evaluate` returns.

    Args:
        confusion: ``(K, K)``, see ``confusion_matrix``.
        class_names: K names.
    """
    right = confusion.diagonal().astype(np.float64)
    annotated, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: a class that does not occur
        iou = right / (annotated + predicted - right)
        accuracy = right / annotated
        dice = 2 * right / (annotated + predicted)
        pixel_accuracy = right.sum() / annotated.sum()
        weighted = np.nansum(iou * annotated) / annotated.sum()
    mean_accuracy = _mean(accuracy)
    metrics = {
        "mIoU": _mean(iou),
        "mAcc": mean_accuracy,
        "aAcc": pixel_accuracy,
        "mDice": _mean(dice),
        "fwIoU": weighted,
        "mACC": mean_accuracy,
        "pACC": pixel_accuracy,
    }
    for prefix, values in (("IoU", iou), ("ACC", accuracy), ("Dice", dice)):
        pairs = zip(class_names, values, strict=True)
        metrics |= {f"{prefix}-{name}": value for name, value in pairs}
    return {name: 100 * float(value) for name, value in metrics.items()}


def _mean(values: np.ndarray) -> float:
    """Mean of the classes that occur; NaN if none does."""
    occurring = values[~np.isnan(values)]
    return float(occurring.mean()) if occurring.size else math.nan


def class_table(metrics: Mapping[str, float], class_names: Sequence[str]) -> str:
    """A table with a line per class, in the order of the data set, and one with the means."""
    rows = [
        [name, *(metrics[f"{prefix}-{name}"] for prefix in ("IoU", "ACC", "Dice"))]
        for name in class_names
    ]
    rows.append(["mean", metrics["mIoU"], metrics["mAcc"], metrics["mDice"]])
    return tabulate(rows, headers=["class", "IoU", "Acc", "Dice"], floatfmt=".2f", tablefmt="pipe")
