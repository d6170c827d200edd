"""What the compiled CUDA kernels need in Python: their inner ops, and the deterministic backward.

The forward ops are registered by the CUDA library itself. The backward ones are registered here,
because whether torch wants a deterministic sum is known to Python alone, at each call. By default
`grad_value` is summed with floating point atomics, whose order differs from run to run. Under
`torch.use_deterministic_algorithms` the terms are rounded to multiples of a power of two and summed
as 64-bit integers, in any order with one result. A term's rounding is at most 2^-61 of what the sum
would be if all samples of a head and level fell on one row with the largest gradient. A gradient
that is not finite anywhere makes all of `grad_value` so. The other gradients depend on no order.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "vitadapter_d2"
_BITS = 61  # of the largest possible sum: one less than fits, for the rounding of its terms

_SCHEMAS = (
    "_cuda_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
    "Tensor sampling_locations, Tensor attention_weights, Tensor? scale) "
    "-> (Tensor, Tensor, Tensor)",
    "_cuda_fused_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
    "Tensor reference_points, Tensor offsets, Tensor logits, bool needs_reference_grad, "
    "Tensor? scale) -> (Tensor, Tensor, Tensor, Tensor)",
)


def fixed_point_scale(
    grad_output: Tensor, attention: Tensor, *, is_softmax: bool
) -> tuple[Tensor, Tensor]:
    """The factor, a power of two, that turns terms of `grad_value` into integers.

    Args:
        grad_output: (B, Q, M * D).
        attention: (B, Q, M, L, P) attention weights, or logits, whose softmax is at most 1.
        is_softmax: whether `attention` holds logits.

    Returns:
        The scale, a float64 tensor without dimensions on `grad_output`'s device, and its inverse;
        NaN or zero, and NaN or infinity, if `grad_output` or the weights are not finite.
    """
    peak = grad_output.abs().amax().double()
    if not is_softmax:
        peak = peak * attention.abs().amax().double()
    terms = max(attention.shape[1] * attention.shape[4], 1)  # a sample adds once to a corner
    exponent = _BITS - torch.log2(peak).ceil() - math.ceil(math.log2(terms))
    exponent = exponent.clamp(max=1000.0)  # all gradients are (nearly) zero
    return torch.exp2(exponent), torch.exp2(-exponent)


def _scale(
    grad_output: Tensor, attention: Tensor, *, is_softmax: bool
) -> tuple[Tensor | None, Tensor | None]:
    empty = grad_output.numel() == 0 or attention.numel() == 0
    if empty or not torch.are_deterministic_algorithms_enabled():
        return None, None
    return fixed_point_scale(grad_output, attention, is_softmax=is_softmax)


def _sum(total: Tensor, inverse: Tensor | None, value: Tensor) -> Tensor:
    return total if inverse is None else (total * inverse).to(value.dtype)


def backward(
    ops: Any,
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ms_deform_attn_backward`, by the inner ops of a namespace."""
    scale, inverse = _scale(grad_output, attention_weights, is_softmax=False)
    total, *others = ops._cuda_backward(
        grad_output, value, spatial_shapes, sampling_locations, attention_weights, scale
    )
    return _sum(total, inverse, value), *others


def fused_backward(
    ops: Any,
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    needs_reference_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`ms_deform_attn_fused_backward`, by the inner ops of a namespace."""
    scale, inverse = _scale(grad_output, logits, is_softmax=True)
    total, *others = ops._cuda_fused_backward(
        grad_output,
        value,
        spatial_shapes,
        reference_points,
        offsets,
        logits,
        needs_reference_grad,
        scale,
    )
    return _sum(total, inverse, value), *others


def register(namespace: str = NAMESPACE, dispatch_key: str = "CUDA") -> torch.library.Library:
    """Define the inner ops and register the backward ones; they exist as long as the result."""
    lib = torch.library.Library(namespace, "FRAGMENT")
    for schema in _SCHEMAS:
        lib.define(schema)
    ops = getattr(torch.ops, namespace)
    lib.impl("ms_deform_attn_backward", functools.partial(backward, ops), dispatch_key)
    lib.impl("ms_deform_attn_fused_backward", functools.partial(fused_backward, ops), dispatch_key)
    return lib
