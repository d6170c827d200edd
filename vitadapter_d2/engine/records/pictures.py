"""Pictures that an evaluation leaves behind."""

from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from vitadapter_d2.engine.records.writers import put_picture
from vitadapter_d2.files import write_image
from vitadapter_d2.inference.drawing import (
    draw_annotation,
    draw_prediction,
    side_by_side,
    stack,
)


class PictureWriter(DatasetEvaluator):
    """Writes image, ground truth and prediction side by side while a model is evaluated.

    Args:
        dataset_name: registered name of the data set that is evaluated.
        output_dir: where ``<image>.png`` and ``gallery.png`` are written; of images of one name
            the second is ``<folder>_<image>.png``.
        max_images: only the first ones are drawn.
        gallery_rows: how many of these ``gallery.png`` shows.
    """

    def __init__(
        self, dataset_name: str, output_dir: str, max_images: int = 12, gallery_rows: int = 4
    ) -> None:
        self.metadata = MetadataCatalog.get(dataset_name)
        self.records = {
            record["file_name"]: record for record in DatasetCatalog.get(dataset_name)[:max_images]
        }
        self.names = _names(self.records)
        self.output_dir = Path(output_dir)
        self.gallery_rows = gallery_rows
        self.rows: list[np.ndarray] = []

    def reset(self) -> None:
        """Forgets the gallery."""
        self.rows = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Draws the images that are among the first."""
        for record, prediction in zip(inputs, outputs, strict=True):
            if record["file_name"] in self.records:
                self._draw(self.records[record["file_name"]], prediction)

    def _draw(self, record: dict[str, Any], prediction: dict[str, Any]) -> None:
        image = read_image(record["file_name"], format="RGB")
        annotated = draw_annotation(image, record, self.metadata)
        predicted = draw_prediction(image, prediction, self.metadata)
        height, width = annotated.shape[:2]
        plain = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        row = side_by_side([plain, annotated, predicted])
        write_image(self.output_dir / f"{self.names[record['file_name']]}.png", row)
        if len(self.rows) < self.gallery_rows:  # one of a large image fills 200 MB
            self.rows.append(row)

    def evaluate(self) -> None:
        """Writes the gallery, also to the writers of a training; no metric comes of it."""
        if self.rows and comm.is_main_process():
            gallery = stack(self.rows)
            write_image(self.output_dir / "gallery.png", gallery)
            put_picture(f"predictions/{self.metadata.name}", gallery)


def _names(files: Iterable[str]) -> dict[str, str]:
    """A name for the picture of each image, without suffix."""
    names: dict[str, str] = {}
    taken = {"gallery"}
    for file in files:
        stem, folder = Path(file).stem, Path(file).parent.name
        numbered = (f"{folder}_{stem}_{number}" for number in count(2))
        candidates = chain([stem, f"{folder}_{stem}"], numbered)
        names[file] = next(name for name in candidates if name not in taken)
        taken.add(names[file])
    return names
