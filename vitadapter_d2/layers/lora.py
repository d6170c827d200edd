"""Low-rank updates of linear layers, under the names the layers have without them.

Written here rather than taken from peft, which would bring transformers and accelerate with it,
renames the base weights, and is not seen by the attention of BEiT and EVA, which reads
``qkv.weight`` instead of calling ``qkv``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with frozen weights and a learned update of low rank.

    It starts with the output of the layer it is made from. ``weight`` is the updated weight for
    whoever reads it; the state dict has the base weight under that name, and ``lora_a`` and
    ``lora_b`` beside it.

    Reference: LoRA, Sec. 4.1, arXiv 2106.09685.

    Args:
        linear: its parameters are taken over and frozen.
        rank: rank r of the update, at least 1.
        alpha: the update is scaled by ``alpha / rank``.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rank, self.alpha = rank, alpha
        linear.requires_grad_(False)
        # Not by assignment: the name is taken by the property.
        self._parameters["weight"] = linear.get_parameter("weight")
        self.register_parameter("bias", linear.bias)
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, self.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.train(linear.training)

    @property
    def base_weight(self) -> Tensor:
        """The frozen weight, ``(out_features, in_features)``."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Base and update together, ``(out_features, in_features)``."""
        return torch.addmm(self.base_weight, self.lora_b, self.lora_a, alpha=self.alpha / self.rank)

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` -> ``(..., out_features)``."""
        # The update on its own path: its gradients then never have the size of the base weight.
        update = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.base_weight, self.bias) + update * (self.alpha / self.rank)

    def extra_repr(self) -> str:
        """For printing the module."""
        return f"{super().extra_repr()}, rank={self.rank}, alpha={self.alpha}"


@torch.no_grad()
def merge_lora(module: nn.Module) -> nn.Module:
    """Folds every update into its base weight, in place.

    Args:
        module: a model; its linear layers become plain ones, which stay frozen.

    Returns:
        ``module``, or the plain layer where it is itself a :class:`LoRALinear`. Names and sizes
        of its state dict are those from before the updates were added.
    """
    if isinstance(module, LoRALinear):
        return _merged(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LoRALinear):
                setattr(parent, name, _merged(child))
    return module


def _merged(lora: LoRALinear) -> nn.Linear:
    linear = nn.Linear(lora.in_features, lora.out_features, lora.bias is not None, device="meta")
    linear.weight = nn.Parameter(lora.weight.to(lora.base_weight.dtype), requires_grad=False)
    linear.bias = lora.bias
    return linear.train(lora.training)
