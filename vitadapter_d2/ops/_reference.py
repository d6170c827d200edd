"""Multi-scale deformable attention in plain PyTorch: the default kernel of the ops.

It runs where no compiled kernel does, on any device, and says what those compute, in float32 or
float64. A query of a head is a bag of 4 * L * P corners in a table of value rows, so that
`embedding_bag` does what costs; the usual formulation by `grid_sample` is in `_grid_sample.py`.

The derivative is written out rather than recorded: autograd is off below the dispatcher. Autocast
is not, so nothing here may be a matrix product, which it would turn into bfloat16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class _Corners:
    """The four corners of each sample: top left, top right, bottom left, bottom right.

    Attributes:
        at: (B, Q, M, L, P, 4) int64, the corner's row in `_table(value)`; its last row, of zeros,
            where there is no corner.
        bilinear: (B, Q, M, L, P, 4), zero where there is no corner.
        fraction: (B, Q, M, L, P, 2), the sample's place in the pixel cell as (x, y).
        inside: (B, Q, M, L, P), less than a pixel away from the map; false for NaN.
    """

    at: Tensor
    bilinear: Tensor
    fraction: Tensor
    inside: Tensor


def _compute_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _level_sizes(like: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
    """(L, 1, 2) level sizes as (W, H), in `like`'s dtype and device."""
    sizes = torch.tensor(spatial_shapes, dtype=like.dtype, device=like.device)
    return sizes.view(-1, 1, 2).flip(-1)


def _find_corners(value: Tensor, spatial_shapes: Sequence[int], pixel: Tensor) -> _Corners:
    """The corners of samples at `pixel`, (B, Q, M, L, P, 2) as (x, y)."""
    B, S, M, _ = value.shape
    sizes = _level_sizes(pixel, spatial_shapes)
    inside = ((pixel > -1) & (pixel < sizes)).all(-1)
    pixel = torch.where(inside[..., None], pixel, 0.0)
    corner = pixel.floor()
    fraction = pixel - corner
    x, y = ((corner[..., i], corner[..., i] + 1) for i in (0, 1))
    left_right, top_bottom = ((1 - fraction[..., i], fraction[..., i]) for i in (0, 1))
    column, row = torch.stack(x * 2, -1), torch.stack((y[0], y[0], y[1], y[1]), -1)
    width, height = sizes.split(1, -1)
    exists = inside[..., None] & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    bilinear = torch.stack([v * h for v in top_bottom for h in left_right], -1)

    areas = [h * w for h, w in zip(spatial_shapes[0::2], spatial_shapes[1::2], strict=True)]
    starts = torch.tensor([sum(areas[:i]) for i in range(len(areas))], device=value.device)
    image = torch.arange(B, device=value.device).view(B, 1, 1, 1, 1, 1)
    head = torch.arange(M, device=value.device).view(M, 1, 1, 1)
    place = starts.view(-1, 1, 1) + row.long() * width.long() + column.long()
    at = torch.where(exists, (image * S + place) * M + head, B * S * M)
    return _Corners(at, torch.where(exists, bilinear, 0.0), fraction, inside)


def _table(value: Tensor, dtype: torch.dtype) -> Tensor:
    """(B * S * M + 1, D): every row of value, and one of zeros."""
    rows = value.reshape(-1, value.shape[3]).to(dtype)
    return torch.cat([rows, rows.new_zeros(1, value.shape[3])])


def _attend(
    value: Tensor, spatial_shapes: Sequence[int], pixel: Tensor, attention: Tensor
) -> Tensor:
    """The weighted sum of the samples: (B, Q, M * D) in value's dtype."""
    B, _, M, D = value.shape
    Q = attention.shape[1]
    if not (value.numel() and attention.numel()):
        return value.new_zeros(B, Q, M * D)
    corners = _find_corners(value, spatial_shapes, pixel)
    weight = torch.where(corners.inside, attention, 0.0)[..., None] * corners.bilinear
    at = torch.where(weight == 0, B * value.shape[1] * M, corners.at)  # it may hold NaN
    output = F.embedding_bag(
        at.flatten(0, 2).flatten(1),
        _table(value, pixel.dtype),
        mode="sum",
        per_sample_weights=weight.flatten(0, 2).flatten(1),
    )
    return output.view(B, Q, M * D).to(value.dtype)


def _attend_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    pixel: Tensor,
    attention: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for value (its dtype), pixel coordinates and attention (the compute dtype)."""
    if not (value.numel() and attention.numel()):
        zeros = torch.zeros_like(value, memory_format=torch.contiguous_format)
        return zeros, torch.zeros_like(pixel), torch.zeros_like(attention)
    corners = _find_corners(value, spatial_shapes, pixel)
    attention = torch.where(corners.inside, attention, 0.0)
    table = _table(value, pixel.dtype)
    grad = grad_output.to(pixel.dtype).reshape(-1, value.shape[3])  # a row per bag
    at = corners.at.flatten()
    bag_size = at.numel() // grad.shape[0]
    bags = torch.arange(grad.shape[0], device=at.device)
    bag_of, bag_sizes = bags.repeat_interleave(bag_size), torch.full_like(bags, bag_size)

    weight = (attention[..., None] * corners.bilinear).flatten()
    grad_table = torch.ops.aten._embedding_bag_dense_backward(
        grad, at, bag_of, bag_sizes, bag_sizes, table.shape[0], False, 0, weight
    )
    dot = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, table, at, bags * bag_size, bag_of, 0
    ).view_as(corners.bilinear)  # <corner, grad_output>
    share = _times(corners.bilinear, dot)
    x, y = corners.fraction.unbind(-1)
    top_left, top_right, bottom_left, bottom_right = dot.unbind(-1)
    slope = (
        (top_right - top_left) * (1 - y) + (bottom_right - bottom_left) * y,
        (bottom_left - top_left) * (1 - x) + (bottom_right - top_right) * x,
    )
    grad_pixel = _times(attention[..., None], torch.stack(slope, -1))
    return grad_table[:-1].view(value.shape).to(value.dtype), grad_pixel, share.sum(-1)


def _times(gradient: Tensor, factor: Tensor) -> Tensor:
    """Their product; zero where `gradient` is, even if the factor is not finite."""
    return torch.where(gradient == 0, 0.0, gradient * factor)


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
    grad_offsets = _times(grad_pixel, scale)

    grad_points = points.new_empty(0)
    if needs_reference_grad:
        sizes = _level_sizes(points, spatial_shapes)
        parts = [grad_pixel * sizes]
        if points.shape[-1] == 4:
            parts.append(_times(grad_pixel, offset) * sizes * (0.5 / max(offsets.shape[4], 1)))
        grad_points = torch.cat(parts, -1).sum((2, 4)).sum_to_size(points.shape)
    return (
        grad_value,
        grad_points.to(reference_points.dtype),
        grad_offsets.to(offsets.dtype),
        grad_logits.to(logits.dtype),
    )
