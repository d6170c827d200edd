"""The optimizer of a run that is resumed: the config's settings count, differences are told."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

logger = logging.getLogger(__name__)


def optimizer_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Learning rate, weight decay and the like of each group of parameters."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def keep_settings(optimizer: Optimizer, configured: Sequence[Mapping[str, Any]]) -> None:
    """Puts settings back that loading a state has replaced, and warns of those that differ.

    Args:
        optimizer: with the loaded state.
        configured: what :func:`optimizer_settings` gave before. The learning rates are those that
            a schedule multiplies.
    """
    changed: dict[str, str] = {}
    for group, own in zip(optimizer.param_groups, configured, strict=True):
        for name, value in own.items():
            key = "initial_lr" if name == "lr" and "initial_lr" in group else name
            found = group.get(key, value)
            if found != (tuple(value) if isinstance(found, tuple) else value):
                changed.setdefault(name, f"{name} {value} ({found} in the checkpoint)")
                group[name] = group[key] = value
    if changed:
        told = ", ".join(changed.values())
        logger.warning("The optimizer goes on with %s, as the config says.", told)
