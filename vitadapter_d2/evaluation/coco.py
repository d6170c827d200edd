"""Detectron2's COCO evaluator with a table of the classes, test-dev files and faster counting."""

import contextlib
import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

Result = dict[str, Any]
_INFO = "image_info_"  # how the files of data sets begin whose annotations are kept secret


class DetectionEvaluator(COCOEvaluator):
    """Box and mask AP of COCO: Detectron2's evaluator, with a few things more.

    Its results have ``AP-<class>`` for every class, as Detectron2's; the log shows them best first,
    with AP50 and the number of objects. Without a single detection AP is 0, where Detectron2's is
    NaN. For a data set without annotations, such as
    ``coco_2017_test-dev``, it writes what the COCO server takes instead. With
    ``use_faster`` the package faster-coco-eval counts, several times as fast: it finds the same
    matches; averages may differ from pycocotools' by one part in 10^15.

    Args:
        dataset_name: registered name.
        output_dir: where results are written; a data set without annotations needs one.
        tasks: of "bbox" and "segm"; None takes those that the predictions have.
        distributed: gather what all processes have seen.
        max_dets_per_image: how many detections of an image count; None is COCO's 100.
        use_faster: whether faster-coco-eval counts; without the package pycocotools does.
        server_name: of the method, in the names of the files for the server.

    Raises:
        ValueError: there are neither annotations nor an ``output_dir``.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        max_dets_per_image: int | None = None,
        use_faster: bool = False,
        server_name: str = "vitadapter",
    ) -> None:
        super().__init__(
            dataset_name,
            None if tasks is None else tuple(tasks),
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,
        )
        if not self._do_evaluation and output_dir is None:
            raise ValueError(
                f"{dataset_name} has no annotations: output_dir must say where the results for "
                "the server are written, got None"
            )
        self.server_name = server_name
        self._counter = _faster_counter() if use_faster else COCOeval

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self._tasks_seen = {"bbox"}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps the instances of some images; see Detectron2's evaluator."""
        super().process(inputs, outputs)
        # A model with masks that finds nothing at all has a mask AP, too.
        if any(output["instances"].has("pred_masks") for output in outputs):
            self._tasks_seen.add("segm")

    def _eval_predictions(
        self, predictions: Sequence[Mapping[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        results = [result for image in predictions for result in image["instances"]]
        tasks = sorted(self._tasks or {*self._tasks_seen, *self._tasks_from_predictions(results)})
        self._use_dataset_ids(results)
        if not self._do_evaluation:
            for task in tasks:
                self._write_for_server(results, task)
            return
        if self._output_dir:
            _write_json(Path(self._output_dir, "coco_instances_results.json"), results)
        for task in tasks:
            counted = self._count(results, task, img_ids)
            self._results[task] = self._derive_coco_results(counted, task)
            self._results[task].update(self._class_results(counted, task))

    def _use_dataset_ids(self, results: Sequence[Result]) -> None:
        """Contiguous classes to the ids of the annotation file, in place."""
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if ids is None:
            return
        dataset_ids = {contiguous: original for original, contiguous in ids.items()}
        for result in results:
            if result["category_id"] not in dataset_ids:
                raise ValueError(
                    f"the model predicted class {result['category_id']}, {self._metadata.name} "
                    f"has {len(dataset_ids)}: {min(dataset_ids)} to {max(dataset_ids)}"
                )
            result["category_id"] = dataset_ids[result["category_id"]]

    def _count(
        self, results: Sequence[Result], task: str, img_ids: Sequence[int] | None
    ) -> COCOeval:
        """An evaluation whose ``eval`` and ``stats`` are filled."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # COCO's reader takes no empty list.
            detections = self._coco_api.loadRes(_of_task(results, task)) if results else COCO()
            counted = self._counter(self._coco_api, detections, task)
            counted.params.maxDets = self._max_dets_per_image
            if img_ids is not None:
                counted.params.imgIds = img_ids
            counted.evaluate()
            counted.accumulate()
            COCOevalMaxDets.summarize(counted)  # for COCO's limits the same as its own
        logger.info("Evaluation of %s:\n%s", task, printed.getvalue().strip())
        return counted

    def _class_results(self, counted: COCOeval, task: str) -> dict[str, float]:
        """``AP-<class>`` of all classes; logs them, too."""
        categories = self._coco_api.loadCats(counted.params.catIds)
        names = self._metadata.get("thing_classes") or [part["name"] for part in categories]
        precisions = counted.eval["precision"][..., 0, -1]  # (IoU, recall, class)
        # Asking COCO's index for each class reads all objects each time.
        objects = Counter(
            part["category_id"]
            for part in self._coco_api.anns.values()
            if not part.get("iscrowd", 0)
        )
        rows = []
        for name, category, precision in zip(
            names, counted.params.catIds, np.moveaxis(precisions, 2, 0), strict=True
        ):
            rows.append((name, _mean(precision), _mean(precision[:1]), objects[category]))
        best_first = sorted(rows, key=lambda row: (np.isnan(row[1]), -row[1]))
        table = tabulate(
            best_first, ["class", "AP", "AP50", "objects"], "pipe", floatfmt=".1f", missingval="-"
        )
        logger.info("%s of each class:\n%s", task, table)
        return {f"AP-{name}": ap for name, ap, _, _ in rows}

    def _write_for_server(self, results: Sequence[Result], task: str) -> None:
        """One JSON file and the archive to be uploaded, for boxes and masks apart."""
        part = Path(self._metadata.json_file).stem.removeprefix(_INFO)
        name = f"detections_{part}_{self.server_name}_results"
        file = Path(self._output_dir, task, f"{name}.json")
        _write_json(file, _of_task(results, task))
        with replacing(file.with_suffix(".zip")) as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(file, file.name)
        logger.info(
            "%s has no annotations. %d results of %s for the evaluation server are in %s",
            self._metadata.name,
            len(results),
            task,
            file.with_suffix(".zip"),
        )


def _faster_counter() -> type[COCOeval]:
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        logger.warning(
            "use_faster needs the package faster-coco-eval (pip install faster-coco-eval), which "
            "is not installed; pycocotools gives the same numbers more slowly"
        )
        return COCOeval
    return COCOeval_faster


def _of_task(results: Sequence[Result], task: str) -> list[Result]:
    """Copies with what a task needs: sizes of masks are told by their pixels, not their boxes."""
    if task == "bbox":
        dropped = "segmentation"
    elif task == "segm":
        dropped = "bbox"
    else:
        raise ValueError(f"tasks must be some of bbox and segm, got {task}")
    return [{key: value for key, value in result.items() if key != dropped} for result in results]


def _mean(precision: np.ndarray) -> float:
    """In percent; NaN for a class without objects."""
    known = precision[precision > -1]
    return float(known.mean() * 100) if known.size else float("nan")


def _write_json(path: Path, results: Sequence[Result]) -> None:
    with replacing(path, "w") as file:
        json.dump(results, file)
