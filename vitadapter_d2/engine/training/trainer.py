"""One training step: autocast on any device, accumulation, clipping, randomness that repeats."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from signal import Signals
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitadapter_d2 import compat
from vitadapter_d2.checkpoint.sharded import whole
from vitadapter_d2.data.loading import worker_deaths_told
from vitadapter_d2.data.seeding import seed_everything
from vitadapter_d2.engine.training.finite import StepReport, check_finite, describe
from vitadapter_d2.engine.training.settings import keep_settings, optimizer_settings
from vitadapter_d2.engine.training.stopping import Stopping, asked

logger = logging.getLogger(__name__)

# Hooks that end a training with an evaluation.
_EVALUATING = hooks.EvalHook | hooks.BestCheckpointer
AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_WINDOW = 20  # iterations over which the writers take the median
_SMALLEST_SCALE = 2.0**-10  # of the loss; below it, float16's range is not what is wrong


class Trainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` for runs that resume exactly, in any precision.

    ``AMPTrainer`` asserts CUDA and, on v0.6, knows float16 only. Gradient clipping is over the
    norm of the whole model, which Detectron2 does not offer.

    An iteration repeats wherever it is run: the generators are seeded from
    ``(seed, rank, iteration)`` at its start, and its batches are those of its number if the loader
    can start at any (:class:`vitadapter_d2.data.loading.TrainLoader`). An iteration takes
    ``accumulate`` micro-batches and makes one step of the optimizer; iterations are never
    interrupted, so there is no phase of accumulation to be stored.

    Args:
        model: takes a batch in Detectron2's input format, returns a dict of losses.
        data_loader: endless iterable of batches.
        optimizer: any.
        amp_dtype: "bfloat16" or "float16" for autocast; None computes in float32. float16 scales
            the loss.
        clip_grad_norm: largest norm of the whole model's gradient, None for no clipping.
        accumulate: micro-batches per iteration; losses are averaged over them.
        seed: 0 or more, the same in all processes.
        output_dir: where the batch of a loss that is no number is described; None: nowhere.

    Attributes:
        stop_signal: a signal that has asked a process of the run to end, see ``stopping.py``.
        redoes_last: whether :meth:`train` first does what the process before was ended in: the
            evaluation and the record of the iteration that its last checkpoint is of.
    """

    iter: int
    _hooks: list[HookBase]

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: str | None = None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        seed: int = 0,
        output_dir: str | None = None,
    ) -> None:
        if amp_dtype is not None and amp_dtype not in AMP_DTYPES:
            raise ValueError(f"amp_dtype must be one of {sorted(AMP_DTYPES)}, got {amp_dtype!r}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {accumulate}")
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm must be above 0, or None, got {clip_grad_norm}")
        # v0.6 asks the loader for its iterator, and so starts its workers, before it is known
        # where to start.
        super().__init__(model=model, data_loader=[], optimizer=optimizer)
        self.data_loader = data_loader
        self.amp_dtype = amp_dtype
        self.clip_grad_norm = clip_grad_norm
        self.accumulate = accumulate
        self.seed = seed
        self.output_dir = output_dir
        self.redoes_last = False
        self.stop_signal: Signals | None = None
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype == "float16")
        self._batches: Iterator[list[dict[str, Any]]] | None = None
        self._history: dict[str, list[tuple[float, int]]] = {}

    def run_step(self) -> None:
        """Data, forward, backward, check, clip, step.

        Raises:
            FloatingPointError: a loss or the gradient is not finite; in all processes.
        """
        with worker_deaths_told():
            if self._batches is None:
                self._batches = self._start_loader()
            # Behind that: a loader may draw a seed of its own when it starts.
            seed_everything(self.seed, comm.get_rank(), self.iter)
            self._run_step(self._batches)

    def _run_step(self, loader: Iterator[list[dict[str, Any]]]) -> None:
        self.optimizer.zero_grad()
        data_time = 0.0
        batches, losses = [], []
        for number in range(self.accumulate):
            start = time.perf_counter()
            batch = self._next(loader)
            data_time += time.perf_counter() - start
            with self._without_gradient_exchange(number):
                losses.append(self._backward(batch))
            batches.append(describe(batch))
        compat.after_backward(self)
        self.grad_scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        # One transfer from the device, behind everything that it has to compute.
        scalars = [*(loss for one in losses for loss in one.values()), norm]
        values = iter(torch.stack([scalar.float() for scalar in scalars]).tolist())
        named = [{name: next(values) for name in one} for one in losses]
        grad_norm = next(values)
        reports = comm.all_gather(StepReport(named, grad_norm, data_time, asked()))
        self.stop_signal = next((one.stop for one in reports if one.stop), None)
        check_finite(
            self.iter,
            reports,
            batches,
            self.model,
            seed=self.seed,
            output_dir=self.output_dir,
            check_gradient=not self._may_overflow(),
        )
        self._record(reports)
        self._clip_gradient(norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next(self, loader: Iterator[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        try:
            return next(loader)
        except StopIteration:
            raise ValueError(
                f"the training data ended at iteration {self.iter} of {self.max_iter}: a loader "
                "without end is needed, such as build_train_loader's"
            ) from None
        except RuntimeError:
            self._stop_without_data()
            raise

    def _stop_without_data(self) -> None:
        """Where the data loaders, too, were asked to end, the run ends before this iteration."""
        number, hook = asked(), next((h for h in self._hooks if isinstance(h, Stopping)), None)
        if number and hook and comm.get_world_size() == 1:
            self.iter -= 1
            hook.stop(number)

    def _start_loader(self) -> Iterator[list[dict[str, Any]]]:
        if hasattr(self.data_loader, "iterate"):
            return self.data_loader.iterate(self.iter * self.accumulate)
        if self.iter:
            logger.warning("This loader starts again: a resumed run sees other data.")
        return iter(self.data_loader)

    def _without_gradient_exchange(self, number: int) -> AbstractContextManager:
        """Of all micro-batches but the last the processes keep the gradients to themselves."""
        if isinstance(self.model, DistributedDataParallel) and number < self.accumulate - 1:
            return self.model.no_sync()
        return nullcontext()

    def _backward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Adds the gradient of a micro-batch's share in the mean."""
        with torch.autocast(
            self.device.type,
            dtype=AMP_DTYPES.get(self.amp_dtype or ""),
            enabled=self.amp_dtype is not None,
        ):
            losses = self.model(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.grad_scaler.scale(total / self.accumulate).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        return whole(nn.utils.get_total_norm(gradients))

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _may_overflow(self) -> bool:
        """Whether a gradient that is not finite makes the scaler skip the step and try another."""
        return self.grad_scaler.is_enabled() and self.grad_scaler.get_scale() > _SMALLEST_SCALE

    def _clip_gradient(self, norm: Tensor) -> None:
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters(), self.clip_grad_norm, norm)

    def _record(self, reports: list[StepReport]) -> None:
        """Means over processes and micro-batches; of the waiting, the longest."""
        if not comm.is_main_process():
            return
        rows = [losses for report in reports for losses in report.losses]
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}
        scalars = {"total_loss": sum(means.values()), **(means if len(means) > 1 else {})}
        if math.isfinite(reports[0].grad_norm):  # else the step is skipped for another loss scale
            scalars["grad_norm"] = reports[0].grad_norm
        storage = get_event_storage()
        storage.put_scalar("data_time", max(report.data_time for report in reports))
        storage.put_scalars(**scalars)
        for name in scalars:
            self._history[name] = storage.history(name).values()[-_WINDOW:]

    def before_train(self) -> None:
        """Goes back to where the checkpoint was saved: what was recorded, what was left to do."""
        if self.start_iter >= self.max_iter:
            self.iter -= 1  # Detectron2 counts one where there is none left to run
        start = self.iter
        super().before_train()
        for name, values in self._history.items():
            for value, self.storage.iter in values:
                self.storage.put_scalar(name, value)
        if self.redoes_last:
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks_behind_saving():
                hook.after_step()
        else:
            self.storage.latest().clear()  # that iteration is on record
        self.iter, self.storage.iter = start, self.start_iter

    def after_train(self) -> None:
        """Ends the hooks; without an evaluation if the training was ended early."""
        if self.iter < self.max_iter:
            # These take an error in the last iteration for the end.
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, _EVALUATING)]
        super().after_train()

    def _hooks_behind_saving(self) -> list[HookBase]:
        """Evaluation and what follows it; in the other processes, evaluation."""
        saves = [isinstance(hook, hooks.PeriodicCheckpointer) for hook in self._hooks]
        if any(saves):
            return self._hooks[saves.index(True) + 1 :]
        return [hook for hook in self._hooks if isinstance(hook, hooks.EvalHook)]

    def state_dict(self) -> dict[str, Any]:
        """With the loss scale, the seed, and what the writers' medians need."""
        own = {
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
            "history": dict(self._history),
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; all but the first part may be missing.

        Settings of the optimizer, such as its learning rate, stay those that it was made with.
        """
        configured = optimizer_settings(self.optimizer)
        super().load_state_dict(state_dict)
        keep_settings(self.optimizer, configured)
        # Empty where the loss was not scaled.
        if state := state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state)
        self.seed = state_dict.get("seed", self.seed)
        self._history = state_dict.get("history", {})
