"""Activation checkpointing as one call."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Any], *args: Any, recompute: bool) -> Any:
    """Calls ``function``; with ``recompute`` its activations are computed again in the backward.

    Args:
        function: a module or any callable.
        *args: its positional arguments.
        recompute: trade a second forward for the memory of the activations. Without gradients
            it changes nothing.

    Returns:
        What ``function`` returns.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)
