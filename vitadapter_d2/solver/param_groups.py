"""Optimizer parameter groups: what is decayed, and how fast each part learns."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

from vitadapter_d2.solver.weight_decay import DecayFactor, ExemptByName

LrFactor = Callable[[str], float]


def param_groups(
    model: nn.Module,
    base_lr: float,
    weight_decay: float,
    lr_factor: LrFactor | None = None,
    decay_factor: DecayFactor | None = None,
) -> list[dict[str, Any]]:
    """Groups the trainable parameters of a model; frozen ones are left out.

    Args:
        model: filled in by the engine when the optimizer is instantiated.
        base_lr: learning rate where ``lr_factor`` is 1.
        weight_decay: where ``decay_factor`` is 1.
        lr_factor: full parameter name -> factor of ``base_lr``.
        decay_factor: name, parameter and owner -> factor of ``weight_decay``; None is
            ``ExemptByName()``, see ``weight_decay.py`` for the official rules.

    Returns:
        One group for each pair of learning rate and weight decay in use, so that the optimizer
        updates many tensors in one call.
    """
    decay_factor = decay_factor or ExemptByName()
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = base_lr * (lr_factor(name) if lr_factor else 1.0)
        owner = model.get_submodule(name.rpartition(".")[0])
        groups[lr, weight_decay * decay_factor(name, parameter, owner)].append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
