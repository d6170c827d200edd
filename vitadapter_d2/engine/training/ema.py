"""An exponential moving average of a model's weights, trained beside it.

torch's ``AveragedModel`` and timm's ``ModelEmaV3`` copy the whole model, frozen trunks included,
know neither the published warm-up nor an interval, and leave the swap into the model that is
evaluated to the caller; the update itself is torch's.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.engine import HookBase
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vitadapter_d2.checkpoint.report import some
from vitadapter_d2.checkpoint.sharded import local_part, shard_like

logger = logging.getLogger(__name__)


class ModelEma:
    """Averages of all trained parameters and of the buffers that a checkpoint holds.

    Frozen parameters have no copy; integer buffers, such as BatchNorm's counter, stay the model's.
    The rule is that of the released COCO panoptic and Objects365 models: with zero-based
    iteration ``i``, an average moves by ``1 - decay_at(i)`` of its distance to the weight.

    Args:
        model: bare, on its device; parameters that are not trained must be frozen already.
        decay: part of an average that an update keeps, in [0, 1).
        warmup_iters: the decay grows towards its value as ``1 - exp(-(i + 1) / warmup_iters)``; 0
            for a constant one.
        interval: iterations between updates.
        buffers: whether floating-point buffers, such as BatchNorm's statistics, are averaged too.

    Raises:
        ValueError: a number is out of its range; a weight is in half precision, where an update is
            too small to count.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float,
        *,
        warmup_iters: int = 0,
        interval: int = 1,
        buffers: bool = True,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"train.ema.decay must be in [0, 1), got {decay}")
        if warmup_iters < 0:
            raise ValueError(f"train.ema.warmup_iters must be at least 0, got {warmup_iters}")
        if interval < 1:
            raise ValueError(f"train.ema.interval must be at least 1, got {interval}")
        self.decay = decay
        self.warmup_iters = warmup_iters
        self.interval = interval
        weights = _averaged(model, buffers)
        self.names = list(weights)
        self.weights = list(weights.values())
        self.averages = [weight.detach().clone() for weight in self.weights]
        self._is_loaded = False

    def decay_at(self, iteration: int) -> float:
        """The decay of one update, for a zero-based iteration."""
        if not self.warmup_iters:
            return self.decay
        return self.decay * -math.expm1(-(iteration + 1) / self.warmup_iters)

    @torch.no_grad()
    def start(self) -> None:
        """Averages start as the weights are now, unless a checkpoint brought them."""
        if not self._is_loaded:
            torch._foreach_copy_(*self._here())

    def update(self, iteration: int) -> None:
        """Moves the averages towards the weights, in place, where the interval says so."""
        if (iteration + 1) % self.interval == 0:
            get_ema_multi_avg_fn(self.decay_at(iteration))(*self._here(), None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages for its weights within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # Values, not storages: what is cached in evaluation goes by a tensor's version, and DDP,
        # CUDA graphs and fused optimizers hold addresses.
        for average, weight in zip(*self._here(), strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)

    def _here(self) -> tuple[list[Tensor], list[Tensor]]:
        """Averages and weights; of a sharded model this process's part of each."""
        averages = [local_part(average) for average in self.averages]
        return averages, [local_part(weight) for weight in self.weights]

    def state_dict(self) -> dict[str, Tensor]:
        """Names as in the model to averages; not copies."""
        return dict(zip(self.names, self.averages, strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Continues from saved averages.

        Raises:
            ValueError: they are not of this model, or other parts of it were trained.
        """
        own = self.state_dict()
        if differing := sorted(own.keys() ^ state_dict.keys()):
            raise ValueError(
                f"the checkpoint's averages and the trained weights differ in {some(differing)}; "
                "train with the parts frozen that were, or with train.ema.enabled=False"
            )
        _copy(state_dict, own)
        self._is_loaded = True


class EmaHook(HookBase):
    """Updates averages after every step; before hooks that save or evaluate.

    Args:
        ema: the averages.
    """

    def __init__(self, ema: ModelEma) -> None:
        self.ema = ema

    def before_train(self) -> None:
        """See :meth:`ModelEma.start`."""
        self.ema.start()

    def after_step(self) -> None:
        """See :meth:`ModelEma.update`."""
        self.ema.update(self.trainer.iter)


class AveragesTaker:
    """Stands for ``ema`` in a checkpointer: averages that a file holds become a model's weights.

    Args:
        model: changed in place when a checkpoint with averages is loaded.
        other_classes: averages of another size than the model's weights are left out.
    """

    def __init__(self, model: nn.Module, other_classes: bool = False) -> None:
        self.model = model
        self.other_classes = other_classes

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: it only reads."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Puts averages in the place of the weights.

        Raises:
            ValueError: they are not of this model.
        """
        own = self.model.state_dict()
        if unknown := sorted(state_dict.keys() - own.keys()):
            raise ValueError(f"the model has no place for the averages of {some(unknown)}")
        if self.other_classes:
            state_dict = {
                name: average
                for name, average in state_dict.items()
                if average.shape == own[name].shape
            }
        _copy(state_dict, own)
        logger.info("The weights are the checkpoint's moving averages (%d).", len(state_dict))


def build_ema(cfg: DictConfig, model: nn.Module) -> ModelEma | None:
    """The averages that ``train.ema`` of a config asks for, or None.

    Args:
        cfg: a LazyConfig.
        model: see :class:`ModelEma`.
    """
    options: dict[str, Any] = dict(cfg.train.get("ema", {}))
    if not options.pop("enabled", False):
        return None
    options.pop("evaluate", None)
    return ModelEma(model, **options)


def uses_averages(cfg: DictConfig) -> bool:
    """Whether a config tests and predicts with averages, where there are some."""
    return cfg.train.get("ema", {}).get("evaluate", True)


@contextmanager
def tested_weights(cfg: DictConfig, ema: ModelEma | None) -> Iterator[None]:
    """The model has the weights that the config wants tested within the block."""
    with ema.applied() if ema and uses_averages(cfg) else nullcontext():
        yield


def _averaged(model: nn.Module, buffers: bool) -> dict[str, Tensor]:
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    saved = model.state_dict().keys()
    statistics = {
        name: one
        for name, one in model.named_buffers()
        if buffers and name in saved and one.is_floating_point()
    }
    weights: dict[str, Tensor] = {**trained, **statistics}
    half = [name for name, weight in weights.items() if weight.dtype.itemsize < 4]
    if half:
        raise ValueError(
            f"train.ema averages weights of float32, {some(half)} has "
            f"{str(weights[half[0]].dtype).removeprefix('torch.')}"
        )
    return weights


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, average in source.items():
        if average.shape != target[name].shape:
            raise ValueError(
                f"the average of {name} is {tuple(average.shape)} in the checkpoint, "
                f"{tuple(target[name].shape)} in the model"
            )
        local_part(target[name]).copy_(local_part(shard_like(average, target[name])))
