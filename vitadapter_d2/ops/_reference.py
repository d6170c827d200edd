"""Multi-scale deformable attention in plain PyTorch: the default kernel of the ops.

It runs where no compiled kernel does, on any device, and says what those compute. Each level is
sampled by `grid_sample` in float32 or float64; in half precision that would round the coordinates.

The derivative is written out rather than recorded: autograd is off below the dispatcher. Autocast
is not, so nothing here may be a matrix product, which it would turn into bfloat16.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_OUTSIDE = -3.0  # a grid_sample coordinate that is more than a pixel outside of any map


@dataclass(frozen=True)
class _Level:
    """One level of a call, batch and heads folded together as grid_sample wants them.

    Attributes:
        rows: where the level's rows are in the value tensor.
        map: (B * M, D, H, W) values in the compute dtype.
        grid: (B * M, Q, P, 2) coordinates; [-1, 1] spans the map from edge to edge.
        attention: (B * M, 1, Q, P), zero where the sample is outside.
        size: (2,) = (W, H).
    """

    rows: slice
    map: Tensor
    grid: Tensor
    attention: Tensor
    size: Tensor


def _compute_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _level_sizes(like: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
    """(L, 1, 2) level sizes as (W, H), in `like`'s dtype and device."""
    sizes = torch.tensor(spatial_shapes, dtype=like.dtype, device=like.device)
    return sizes.view(-1, 1, 2).flip(-1)


def _levels(
    value: Tensor, spatial_shapes: Sequence[int], pixel: Tensor, attention: Tensor
) -> Iterator[_Level]:
    """Split a call with samples at `pixel`, (B, Q, M, L, P, 2) as (x, y), into its levels."""
    B, _, M, D = value.shape
    sizes = _level_sizes(pixel, spatial_shapes)
    inside = ((pixel > -1) & (pixel < sizes)).all(-1, keepdim=True)  # false for NaN as well
    grid = torch.where(inside, (2 * pixel + 1) / sizes - 1, _OUTSIDE)
    attention = torch.where(inside[..., 0], attention, 0.0)
    start = 0
    for level, (H, W) in enumerate(zip(spatial_shapes[0::2], spatial_shapes[1::2], strict=True)):
        rows = slice(start, start + H * W)
        start = rows.stop
        yield _Level(
            rows,
            value[:, rows].to(pixel.dtype).permute(0, 2, 3, 1).reshape(B * M, D, H, W),
            grid[:, :, :, level].transpose(1, 2).flatten(0, 1),
            attention[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1),
            sizes[level, 0],
        )


def _sample(level: _Level) -> Tensor:
    """(B * M, D, Q, P) bilinear samples, zero outside."""
    return F.grid_sample(
        level.map, level.grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _attend(
    value: Tensor, spatial_shapes: Sequence[int], pixel: Tensor, attention: Tensor
) -> Tensor:
    """The weighted sum of the samples: (B, Q, M * D) in value's dtype."""
    B, _, M, D = value.shape
    Q = attention.shape[1]
    output = attention.new_zeros(B * M, D, Q)
    if output.numel() and attention.numel():
        for level in _levels(value, spatial_shapes, pixel, attention):
            output += (_sample(level) * level.attention).sum(-1)
    return output.view(B, M * D, Q).transpose(1, 2).to(value.dtype).contiguous()


def _attend_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    pixel: Tensor,
    attention: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for value (its dtype), pixel coordinates and attention (the compute dtype)."""
    B, _, M, D = value.shape
    Q = attention.shape[1]
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    grad_pixel, grad_attention = torch.zeros_like(pixel), torch.zeros_like(attention)
    if not (attention.numel() and value.numel()):
        return grad_value, grad_pixel, grad_attention
    grad = grad_output.to(attention.dtype).transpose(1, 2).reshape(B * M, D, Q, 1)
    for i, level in enumerate(_levels(value, spatial_shapes, pixel, attention)):
        dot = (_sample(level) * grad).sum(1)  # (B * M, Q, P)
        grad_attention[:, :, :, i] = dot.unflatten(0, (B, M)).transpose(1, 2)
        grad_map, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * level.attention, level.map, level.grid, 0, 0, False, [True, True]
        )
        grad_value[:, level.rows] = grad_map.view(B, M, D, -1).permute(0, 3, 1, 2)
        grad_grid = grad_grid * (2 / level.size)
        grad_pixel[:, :, :, i] = grad_grid.unflatten(0, (B, M)).transpose(1, 2)
    return grad_value, grad_pixel, grad_attention


def _plain_pixel(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor) -> Tensor:
    locations = locations.to(_compute_dtype(value))
    return locations * _level_sizes(locations, spatial_shapes) - 0.5


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Forward of the plain op; arguments as in its schema."""
    pixel = _plain_pixel(value, spatial_shapes, sampling_locations)
    attention = attention_weights.to(pixel.dtype)
    return _attend(value, spatial_shapes, pixel, attention)


def ms_deform_attn_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the plain op for value, sampling locations and attention weights."""
    pixel = _plain_pixel(value, spatial_shapes, sampling_locations)
    attention = attention_weights.to(pixel.dtype)
    grad_value, grad_pixel, grad_attention = _attend_backward(
        grad_output, value, spatial_shapes, pixel, attention
    )
    grad_locations = grad_pixel * _level_sizes(pixel, spatial_shapes)
    return (
        grad_value,
        grad_locations.to(sampling_locations.dtype),
        grad_attention.to(attention_weights.dtype),
    )


def _scale(value: Tensor, spatial_shapes: Sequence[int], points: Tensor, P: int) -> Tensor:
    """Pixels that one unit of offset moves a sample by, broadcastable to the offsets."""
    if points.shape[-1] == 2:
        return points.new_ones(1)
    sizes = _level_sizes(points, spatial_shapes)
    return points[:, :, None, :, None, 2:] * sizes * (0.5 / P)  # (B, Q, 1, L, 1, 2)


def _fused_pixel(
    value: Tensor, spatial_shapes: Sequence[int], points: Tensor, offsets: Tensor
) -> Tensor:
    sizes = _level_sizes(points, spatial_shapes)
    center = points[:, :, None, :, None, :2] * sizes - 0.5  # (B, Q, 1, L, 1, 2)
    return center + offsets * _scale(value, spatial_shapes, points, max(offsets.shape[4], 1))


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """Forward of the fused op; arguments as in its schema."""
    dtype = _compute_dtype(value)
    pixel = _fused_pixel(value, spatial_shapes, reference_points.to(dtype), offsets.to(dtype))
    attention = logits.to(dtype).flatten(3).softmax(-1).view_as(logits)
    return _attend(value, spatial_shapes, pixel, attention)


def ms_deform_attn_fused_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
    needs_reference_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the fused op for value, reference points, offsets and logits.

    The second is an empty tensor unless `needs_reference_grad`.
    """
    dtype = _compute_dtype(value)
    points, offset = reference_points.to(dtype), offsets.to(dtype)
    pixel = _fused_pixel(value, spatial_shapes, points, offset)
    attention = logits.to(dtype).flatten(3).softmax(-1).view_as(logits)
    grad_value, grad_pixel, grad_attention = _attend_backward(
        grad_output, value, spatial_shapes, pixel, attention
    )
    inner = (grad_attention * attention).flatten(3).sum(-1)[..., None, None]
    grad_logits = attention * (grad_attention - inner)
    scale = _scale(value, spatial_shapes, points, max(offsets.shape[4], 1))
    grad_offsets = grad_pixel * scale

    grad_points = points.new_empty(0)
    if needs_reference_grad:
        sizes = _level_sizes(points, spatial_shapes)
        parts = [grad_pixel * sizes]
        if points.shape[-1] == 4:
            parts.append(grad_pixel * offset * sizes * (0.5 / max(offsets.shape[4], 1)))
        grad_points = torch.cat(parts, -1).sum((2, 4)).sum_to_size(points.shape)
    return (
        grad_value,
        grad_points.to(reference_points.dtype),
        grad_offsets.to(offsets.dtype),
        grad_logits.to(logits.dtype),
    )
