"""What the ops count in torch's ``FlopCounterMode``.

A bilinear sample is four multiply-adds per channel, one for each corner, and a multiply-add is two
operations, as in torch's own formulas. What does not grow with the channels is left out: softmax,
locations, and the product of a sample's attention weight with its four bilinear ones. fvcore counts
``grid_sample`` in the same way, which the numbers of the ViT-Adapter paper come from.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from .ms_deform_attn import NAMESPACE

_OPS = getattr(torch.ops, NAMESPACE)


def _of_corners(value: torch.Size, weights: torch.Size, multiply_adds: int) -> int:
    """Of (B, S, M, D) and (B, Q, M, L, P): so many multiply-adds per channel and corner."""
    return 2 * multiply_adds * 4 * prod(weights) * value[-1]


@register_flop_formula([_OPS.ms_deform_attn, _OPS.ms_deform_attn_fused])
def _forward(value: torch.Size, *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return _of_corners(value, others[-1], 1)


@register_flop_formula([_OPS.ms_deform_attn_backward, _OPS.ms_deform_attn_fused_backward])
def _backward(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Each corner gets its share of the gradient, and its value meets the gradient."""
    return _of_corners(out_shape[0], out_shape[-1], 2)
