"""A run over all the parts in which it was trained, as a part of its checkpoints."""

import logging
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from omegaconf import DictConfig, OmegaConf

logger = logging.getLogger(__name__)

# What changes the course of a run; the optimizer's own settings tell themselves.
_FIELDS = (
    "train.max_iter",
    "train.accumulate",
    "train.amp.enabled",
    "train.amp.dtype",
    "train.clip_grad_norm",
    "train.ema.enabled",
    "dataloader.train.total_batch_size",
)


class RunRecord:
    """When a run began, how long it has taken, and by which settings.

    Args:
        cfg: a LazyConfig.

    Attributes:
        started: when its first part began.
        parts: how often it was started or resumed.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = {field: OmegaConf.select(cfg, field) for field in _FIELDS}
        self.started = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        self.parts = 1
        self._before = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of all parts, as far as they are in checkpoints, and of this one until now."""
        return self._before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        own = ("settings", "started", "parts", "seconds")
        return {name: getattr(self, name) for name in own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on with a run; settings that it did not have until here are warned of."""
        self.started = state_dict["started"]
        self.parts, self._before = state_dict["parts"] + 1, state_dict["seconds"]
        for field, before in state_dict["settings"].items():
            if field in self.settings and (now := self.settings[field]) != before:
                logger.warning("%s is %s now, until here the run had %s.", field, now, before)
