"""One training step: autocast on any device, full-model gradient clipping."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from vitadapter_d2 import compat

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with what its ``AMPTrainer`` cannot do.

    ``AMPTrainer`` asserts CUDA and, on v0.6, knows float16 only. Gradient clipping is over the
    norm of the whole model, which Detectron2 does not offer.

    Args:
        model: takes a batch in Detectron2's input format, returns a dict of losses.
        data_loader: endless iterable of batches.
        optimizer: any.
        amp_dtype: "bfloat16" or "float16" for autocast; None computes in float32. float16 scales
            the loss.
        clip_grad_norm: largest norm of the whole model's gradient, None for no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: str | None = None,
        clip_grad_norm: float | None = None,
    ) -> None:
        if amp_dtype is not None and amp_dtype not in AMP_DTYPES:
            raise ValueError(f"amp_dtype must be one of {sorted(AMP_DTYPES)}, got {amp_dtype!r}")
        super().__init__(model=model, data_loader=data_loader, optimizer=optimizer)
        self.amp_dtype = amp_dtype
        self.clip_grad_norm = clip_grad_norm
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype == "float16")

    def run_step(self) -> None:
        """Data, forward, backward, clip, step."""
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with torch.autocast(
            self.device.type,
            dtype=AMP_DTYPES.get(self.amp_dtype or ""),
            enabled=self.amp_dtype is not None,
        ):
            losses = self.model(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        compat.after_backward(self)
        self._write_metrics(losses, data_time)
        self._clip_gradients()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _clip_gradients(self) -> None:
        if self.clip_grad_norm is None:
            return
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)

    def state_dict(self) -> dict[str, Any]:
        """With the loss scale."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        # Empty where the loss was not scaled.
        if state := state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state)
