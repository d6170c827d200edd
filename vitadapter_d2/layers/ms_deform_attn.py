"""Multi-scale deformable attention as a module."""

import math

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.levels import Shapes
from vitadapter_d2.ops import ms_deform_attn_fused


class MSDeformAttn(nn.Module):
    """Every query looks at a few learned points of each feature level.

    Reference: Deformable DETR, Sec. 4.1 / Eq. 3, arXiv 2010.04159; the narrower value of
    ViT-Adapter, arXiv 2205.08534, Sec. 3.3 (``value_ratio``). Parameter names are those of both.

    Args:
        embed_dim: width C of queries, values and output.
        num_levels: levels L that are sampled.
        num_heads: attention heads M; divides ``embed_dim * value_ratio``.
        num_points: points P that a head samples on each level.
        value_ratio: width of the projected values over ``embed_dim``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int = 4,
        value_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        value_dim = int(embed_dim * value_ratio)
        if value_dim % num_heads:
            raise ValueError(
                f"the value width {value_dim} (embed_dim {embed_dim} * value_ratio {value_ratio}) "
                f"must be a multiple of num_heads, got {num_heads}"
            )
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_samples * 2)
        self.attention_weights = nn.Linear(embed_dim, num_samples)
        self.value_proj = nn.Linear(embed_dim, value_dim)
        self.output_proj = nn.Linear(value_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform weights over points that lie on one ray per head, one pixel apart."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles = torch.arange(self.num_heads) * (2.0 * math.pi / self.num_heads)
        rays = torch.stack((angles.cos(), angles.sin()), dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)  # (M, 2)
        steps = torch.arange(1, self.num_points + 1)
        offsets = rays[:, None, None] * steps[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            bias = self.sampling_offsets.bias.view(self.num_heads, self.num_levels, -1, 2)
            bias.copy_(offsets.expand_as(bias))

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Shapes,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Samples ``value`` around the reference points.

        Args:
            query: ``(B, Q, C)`` float.
            reference_points: ``(B or 1, Q, L or 1, 2)`` as ``(x, y)`` in [0, 1], or with 4 numbers
                as ``(cx, cy, w, h)``: then offsets are in units of half the box over P.
            value: ``(B, S, C)`` float, levels concatenated as by ``flatten_levels``.
            spatial_shapes: ``(H_l, W_l)`` of the L levels, with sum of products S.
            padding_mask: ``(B, S)`` bool, True where ``value`` must count as zero.

        Returns:
            ``(B, Q, C)`` in the type of ``output_proj``'s result.
        """
        batch, num_queries, _ = query.shape
        samples = (batch, num_queries, self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        # Under autocast the linears give half precision; half a pixel is lost in it at 160 columns.
        precise = torch.promote_types(value.dtype, torch.float32)
        offsets = self.sampling_offsets(query).to(precise).view(*samples, 2)
        logits = self.attention_weights(query).to(precise).view(samples)
        points = reference_points.to(precise).expand(-1, -1, self.num_levels, -1)
        sampled = ms_deform_attn_fused(
            value.unflatten(-1, (self.num_heads, -1)), spatial_shapes, points, offsets, logits
        )
        return self.output_proj(sampled)
