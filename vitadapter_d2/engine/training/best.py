"""Keeping the checkpoint that was evaluated best."""

import logging
import math
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.reading import CheckpointError, read_file
from vitadapter_d2.checkpoint.sharded import is_sharded
from vitadapter_d2.engine.errors import nearest
from vitadapter_d2.engine.evaluate import HEADLINES

logger = logging.getLogger(__name__)

BEST = "model_best"
AUTO = "auto"
_OF_TRAINING = ("trainer", "run")


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook with all but the training's state in its file, which also says how good.

    A resumed training does not take ``model_best.pth`` for its newest checkpoint, and does not
    replace it by a worse one: what counts is the file, which may be newer than that checkpoint.
    Comes after the evaluation, in the main process; of a sharded model in all, which save together.

    Args:
        eval_period: of the evaluation.
        checkpointer: of the training; its folder, model and averages are used.
        metric: such as ``"sem_seg/mIoU"``, larger being better; :data:`AUTO` takes the first
            headline metric that the evaluation gives.
    """

    _val_metric: str
    best_metric: float | None
    best_iter: int | None

    def __init__(self, eval_period: int, checkpointer: Checkpointer, metric: str = AUTO) -> None:
        parts = checkpointer.checkpointables.items()
        remembered: dict[str, Any] = {key: part for key, part in parts if key not in _OF_TRAINING}
        untagged = _Untagged(
            checkpointer.model,
            checkpointer.save_dir,
            trained_only=checkpointer.trained_only,
            **remembered,
        )
        super().__init__(eval_period, untagged, metric, file_prefix=BEST)

    @property
    def metric(self) -> str:
        """The metric's name; :data:`AUTO` until there was an evaluation."""
        return self._val_metric

    def before_train(self) -> None:
        """Reads how good the best of a resumed run is; another metric's values do not count."""
        file = Path(self._checkpointer.save_dir, f"{BEST}.pth")
        if not self.trainer.start_iter or not file.is_file():
            return
        try:
            best = read_file(file).get("best", {})
        except CheckpointError as error:
            logger.warning("The next evaluation counts as the best: %s", error)
            return
        if best and self.metric in (AUTO, best["metric"]):
            self._val_metric = best["metric"]
            self.best_metric, self.best_iter = best["value"], best["iteration"]

    def _best_checking(self) -> None:
        best = self._better() if comm.is_main_process() else None  # it alone knows the results
        if is_sharded(self._checkpointer.model):
            best = comm.all_gather(best)[0]
        if best is None:
            return
        try:
            self._checkpointer.save(BEST, iteration=best["iteration"], best=best)
        except OSError as error:
            logger.warning("%s.pth was not written: %s", BEST, error)
            return
        self.best_metric, self.best_iter = best["value"], best["iteration"]
        logger.info("%s.pth: %s is %.3f, the best so far", BEST, best["metric"], best["value"])

    def _better(self) -> dict[str, Any] | None:
        """The last evaluation if it is the best."""
        there = self.trainer.storage.latest()
        if self.metric not in there:
            self._choose(list(there))
        if self.metric not in there:
            return None
        value, iteration = there[self.metric]
        if not math.isfinite(value) or (self.best_metric is not None and value <= self.best_metric):
            return None
        return {"metric": self.metric, "value": value, "iteration": iteration}

    def _choose(self, given: list[str]) -> None:
        """Takes a headline metric; what is compared already stays."""
        wanted, is_free = self.metric, self.best_metric is None
        headlines = [f"{task}/{key}" for task, key, _ in HEADLINES if f"{task}/{key}" in given]
        if is_free and headlines:
            self._val_metric = headlines[0]
        if wanted != AUTO:
            similar = ", ".join(nearest(wanted, [name for name in given if "/" in name]))
            logger.warning(
                "train.best_metric=%s: the evaluation does not give it; nearest: %s%s",
                wanted,
                similar or "none",
                f"; {self.metric} takes its place" if self.metric != wanted else "",
            )


class _Untagged(Checkpointer):
    """Its files are not what a training continues from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes nothing."""
