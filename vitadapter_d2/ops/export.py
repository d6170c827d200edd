"""The ops as graphs of standard operators, for runtimes that have no custom ones.

The formulation by `grid_sample` that users of Deformable DETR and ViT-Adapter know: differentiable,
and exportable as ONNX's GridSample (opset 16 and later). Slower than the ops by an order of
magnitude. Unlike them it passes on a non-finite value from a corner of weight zero, or from a
location that is not finite.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _level_sizes(like: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
    """(L, 1, 2) level sizes as (W, H)."""
    # A constant tensor would not survive decomposition, which refuses what builds one in place.
    return torch.stack([like.new_full((), size) for size in spatial_shapes]).view(-1, 1, 2).flip(-1)


def grid_sample_attn(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """`ms_deform_attn` by `grid_sample`; `spatial_shapes` is flat, (H, W) of each level in turn."""
    B, _, M, D = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    dtype = torch.promote_types(value.dtype, torch.float32)
    grid = 2 * sampling_locations.to(dtype).transpose(1, 2).flatten(0, 1) - 1  # (B * M, Q, L, P, 2)
    sizes = list(zip(spatial_shapes[0::2], spatial_shapes[1::2], strict=True))
    samples = []
    for level, rows in enumerate(value.to(dtype).split([h * w for h, w in sizes], 1)):
        level_map = rows.permute(0, 2, 3, 1).reshape(B * M, D, *sizes[level])
        samples.append(
            F.grid_sample(
                level_map,
                grid[:, :, level],
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
        )
    weights = attention_weights.to(dtype).transpose(1, 2).reshape(B * M, 1, Q, L * P)
    output = (torch.stack(samples, -2).flatten(-2) * weights).sum(-1)  # (B * M, D, Q)
    return output.view(B, M * D, Q).transpose(1, 2).to(value.dtype).contiguous()


def grid_sample_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[int],
    reference_points: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """`ms_deform_attn_fused` by `grid_sample`; `spatial_shapes` is flat."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    points, offsets = reference_points.to(dtype)[:, :, None, :, None], offsets.to(dtype)
    if points.shape[-1] == 2:
        offsets = offsets / _level_sizes(offsets, spatial_shapes)
    else:
        offsets = offsets * points[..., 2:] * (0.5 / max(logits.shape[4], 1))
    weights = logits.to(dtype).flatten(3).softmax(-1).view(logits.shape)
    return grid_sample_attn(value, spatial_shapes, points[..., :2] + offsets, weights)


def export_decompositions() -> dict[Any, Callable[..., Any]]:
    """What replaces the ops in an exported program, for `ExportedProgram.run_decompositions`.

    ::

        program = torch.export.export(model, (image,)).run_decompositions(export_decompositions())
        torch.onnx.export(program, f="model.onnx", dynamo=True)
    """
    ops = torch.ops.vitadapter_d2
    return {
        ops.ms_deform_attn.default: grid_sample_attn,
        ops.ms_deform_attn_fused.default: grid_sample_attn_fused,
    }
