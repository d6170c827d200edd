"""Multi-scale deformable attention as torch ops: schema, fake kernels, autograd, checked entries.

Reference: Deformable DETR: Deformable Transformers for End-to-End Object Detection, Sec. 4.1,
arXiv 2010.04159. A sample at coordinate x in [0, 1] of a level W pixels wide lies at pixel
x * W - 0.5; sampling is bilinear, zero outside. A sample a whole pixel or more outside, or at a
non-finite location, contributes zero and gets zero gradient.

The PyTorch formulation is the default kernel; the compiled library adds faster ones for the same
ops.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, _reference

NAMESPACE = "vitadapter_d2"

_SCHEMAS = {
    "ms_deform_attn": (
        "(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
        "Tensor attention_weights) -> Tensor"
    ),
    "ms_deform_attn_backward": (
        "(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
        "Tensor attention_weights) -> (Tensor, Tensor, Tensor)"
    ),
    "ms_deform_attn_fused": (
        "(Tensor value, SymInt[] spatial_shapes, Tensor reference_points, Tensor offsets, "
        "Tensor logits) -> Tensor"
    ),
    "ms_deform_attn_fused_backward": (
        "(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor reference_points, "
        "Tensor offsets, Tensor logits, bool needs_reference_grad) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
}


def _output_like(value: Tensor, queries: Tensor) -> Tensor:
    B, _, M, D = value.shape
    return value.new_empty(B, queries.shape[1], M * D)


def _fake(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return _output_like(value, weights)


def _fake_backward(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (value, locations, weights))


def _fake_fused(
    value: Tensor, shapes: Sequence[int], points: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    return _output_like(value, logits)


def _fake_fused_backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    needs_reference_grad: bool,
) -> tuple[Tensor, ...]:
    grad_points = points.new_empty(points.shape if needs_reference_grad else (0,))
    return (
        value.new_empty(value.shape),
        grad_points,
        offsets.new_empty(offsets.shape),
        logits.new_empty(logits.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, *others = inputs
    ctx.save_for_backward(value, *others)


def _refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("ms_deform_attn: double backward is not supported")


def define_ops(namespace: str) -> torch.library.Library:
    """Define the four ops in `namespace`, with the PyTorch formulation as their default kernel."""
    lib = torch.library.Library(namespace, "DEF")
    fakes: tuple[Callable[..., Any], ...] = (
        _fake,
        _fake_backward,
        _fake_fused,
        _fake_fused_backward,
    )
    for (name, schema), fake in zip(_SCHEMAS.items(), fakes, strict=True):
        lib.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        kernel = _library.reference_kernel(getattr(_reference, name))
        lib.impl(name, kernel, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=lib)
    ops = getattr(torch.ops, namespace)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, *others = ctx.saved_tensors
        grad_value, *grads = ops.ms_deform_attn_backward(grad, value, ctx.spatial_shapes, *others)
        return grad_value, None, *grads

    def backward_fused(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, *others = ctx.saved_tensors
        needs_reference_grad = ctx.needs_input_grad[2]
        grad_value, grad_points, grad_offsets, grad_logits = ops.ms_deform_attn_fused_backward(
            grad, value, ctx.spatial_shapes, *others, needs_reference_grad
        )
        return (
            grad_value,
            None,
            grad_points if needs_reference_grad else None,
            grad_offsets,
            grad_logits,
        )

    for name, formula in (("ms_deform_attn", backward), ("ms_deform_attn_fused", backward_fused)):
        op = f"{namespace}::{name}"
        torch.library.register_autograd(op, formula, setup_context=_save, lib=lib)
        torch.library.register_autograd(op + "_backward", _refuse_double_backward, lib=lib)
    return lib


_LIBRARY = define_ops(NAMESPACE)
_library.load()
_OPS = getattr(torch.ops, NAMESPACE)


def _expect(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"ms_deform_attn: {name}: expected {expected}, got {got}")


def _check_value(value: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Check the arguments that both entries share; returns the flat shapes."""
    _expect(value.dim() == 4, "value", "shape (B, S, M, D)", tuple(value.shape))
    _expect(value.is_floating_point(), "value", "a floating point dtype", value.dtype)
    _expect(
        not isinstance(spatial_shapes, Tensor),
        "spatial_shapes",
        "a sequence of (height, width) pairs of ints",
        "a Tensor (use .tolist(), once, outside of the model)",
    )
    _expect(
        len(spatial_shapes) > 0 and all(len(shape) == 2 for shape in spatial_shapes),
        "spatial_shapes",
        "one (height, width) pair per level, at least one",
        spatial_shapes,
    )
    _expect(
        all(size >= 1 for shape in spatial_shapes for size in shape),
        "spatial_shapes",
        "sizes of 1 or more",
        spatial_shapes,
    )
    total = sum(height * width for height, width in spatial_shapes)
    _expect(value.shape[1] == total, "value", f"S = {total} as in spatial_shapes", value.shape[1])
    return [size for shape in spatial_shapes for size in shape]


def _check_other(name: str, tensor: Tensor, value: Tensor, shape: tuple[int, ...]) -> None:
    """Check that `tensor` has `shape` and a dtype and device that go with `value`."""
    _expect(tensor.shape == shape, name, f"shape {shape}", tuple(tensor.shape))
    if value.dtype == torch.float64:
        _expect(tensor.dtype == torch.float64, name, "float64 as value", tensor.dtype)
    else:
        _expect(
            tensor.dtype in (torch.float32, torch.float16, torch.bfloat16),
            name,
            f"float32 or a half precision dtype (value is {value.dtype})",
            tensor.dtype,
        )
    _expect(tensor.device == value.device, name, f"device {value.device}", tensor.device)


def _points_shape(name: str, tensor: Tensor, value: Tensor, levels: int) -> tuple[int, ...]:
    """(B, Q, M, L, P) with Q and P taken from `tensor`, whose rank is checked."""
    _expect(tensor.dim() == 5, name, "shape (B, Q, M, L, P)", tuple(tensor.shape))
    return value.shape[0], tensor.shape[1], value.shape[2], levels, tensor.shape[4]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of a pyramid of maps, weighted, per query and head.

    With the compiled kernels the result is bitwise independent of the number of threads. Double
    backward is refused.

    Args:
        value: (B, S, M, D) float64, float32, float16 or bfloat16; S runs over the levels, each
            row-major.
        spatial_shapes: (height, width) of each of the L levels, ints; S is the sum of their
            products.
        sampling_locations: (B, Q, M, L, P, 2) as (x, y); [0, 1] spans a level from edge to edge.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D) in value's dtype.

    Raises:
        ValueError: if an argument's rank, size, dtype or device disagrees with the others. With a
            float64 value the other tensors are float64; else any of float32, float16 and bfloat16,
            and the arithmetic is float32.
    """
    shapes = _check_value(value, spatial_shapes)
    points = _points_shape("attention_weights", attention_weights, value, len(spatial_shapes))
    _check_other("attention_weights", attention_weights, value, points)
    _check_other("sampling_locations", sampling_locations, value, (*points, 2))
    return _OPS.ms_deform_attn(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` with the softmax and the location arithmetic inside.

    Args:
        value: (B, S, M, D), as for `ms_deform_attn`.
        spatial_shapes: (height, width) of each of the L levels.
        reference_points: (B or 1, Q, L, 2) as (x, y), or (B or 1, Q, L, 4) as (cx, cy, w, h), both
            in [0, 1] image coordinates.
        offsets: (B, Q, M, L, P, 2) as (x, y). With two numbers per reference point, in pixels of
            the level: location = ref + offset / (W, H). With four, in units of half a box side
            per P: location = ref_xy + offset / P * ref_wh * 0.5.
        logits: (B, Q, M, L, P); their softmax over the L * P samples together is the attention.

    Returns:
        (B, Q, M * D) in value's dtype.

    Raises:
        ValueError: as for `ms_deform_attn`.
    """
    shapes = _check_value(value, spatial_shapes)
    points = _points_shape("logits", logits, value, len(spatial_shapes))
    _check_other("logits", logits, value, points)
    _check_other("offsets", offsets, value, (*points, 2))
    B, Q, _, L, _ = points
    _expect(
        reference_points.dim() == 4
        and reference_points.shape[0] in (1, B)
        and reference_points.shape[3] in (2, 4),
        "reference_points",
        f"shape ({B} or 1, {Q}, {L}, 2 or 4)",
        tuple(reference_points.shape),
    )
    batch, numbers = reference_points.shape[0], reference_points.shape[3]
    _check_other("reference_points", reference_points, value, (batch, Q, L, numbers))
    return _OPS.ms_deform_attn_fused(value, shapes, reference_points, offsets, logits)
