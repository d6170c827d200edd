"""Optimizer parameter groups: what is decayed, and how fast each part learns."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

LrFactor = Callable[[str], float]


def param_groups(
    model: nn.Module,
    base_lr: float,
    weight_decay: float,
    lr_factor: LrFactor | None = None,
    no_decay: tuple[str, ...] = ("pos_embed", "cls_token", "reg_token", "level_embed", "gamma"),
) -> list[dict[str, Any]]:
    """Groups the trainable parameters of a model.

    Weight decay is 0 for everything with one dimension (norms, biases, scales), for
    ``nn.Embedding`` tables and for the parameters named in ``no_decay``.

    Args:
        model: filled in by the engine when the optimizer is instantiated.
        base_lr: learning rate where ``lr_factor`` is 1.
        weight_decay: of everything else.
        lr_factor: full parameter name -> factor of ``base_lr``.
        no_decay: last parts of parameter names.

    Returns:
        One group for each pair of learning rate and weight decay in use, so that the optimizer
        updates many tensors in one call.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = (
            parameter.ndim <= 1
            or id(parameter) in embeddings
            or name.rpartition(".")[2] in no_decay
        )
        lr = base_lr * (lr_factor(name) if lr_factor else 1.0)
        groups[lr, 0.0 if exempt else weight_decay].append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
