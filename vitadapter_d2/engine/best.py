"""Keeping the checkpoint that was evaluated best."""

import logging
from typing import Any

from detectron2.engine import hooks

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.evaluate import HEADLINES

logger = logging.getLogger(__name__)

BEST = "model_best"
AUTO = "auto"


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, resumable, with weights and averages alone in its file.

    A resumed training does not take ``model_best.pth`` for its newest checkpoint, and does not
    replace it by a worse one. Comes after the evaluation, in the main process.

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
        ema = checkpointer.checkpointables.get("ema")
        averages: dict[str, Any] = {"ema": ema} if ema else {}
        untagged = _Untagged(
            checkpointer.model,
            checkpointer.save_dir,
            trained_only=checkpointer.trained_only,
            **averages,
        )
        super().__init__(eval_period, untagged, metric, file_prefix=BEST)

    @property
    def metric(self) -> str:
        """The metric's name; :data:`AUTO` until there was an evaluation."""
        return self._val_metric

    def _best_checking(self) -> None:
        if self._val_metric == AUTO:
            there = self.trainer.storage.latest()
            names = [f"{task}/{key}" for task, key, _ in HEADLINES]
            self._val_metric = next((name for name in names if name in there), AUTO)
        before = self.best_metric, self.best_iter
        try:
            super()._best_checking()
        except OSError as error:
            self.best_metric, self.best_iter = before
            logger.warning("%s.pth was not written: %s", BEST, error)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and its iteration."""
        return {"metric": self.metric, "value": self.best_metric, "iteration": self.best_iter}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; another metric's values do not count."""
        if self.metric in (AUTO, state_dict["metric"]):
            self._val_metric = state_dict["metric"]
            self.best_metric, self.best_iter = state_dict["value"], state_dict["iteration"]


class _Untagged(Checkpointer):
    """Its files are not what a training continues from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes nothing."""
