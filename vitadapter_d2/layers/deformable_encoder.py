"""The transformer layer in which all cells of a pyramid look at each other."""

import torch.nn.functional as F
from torch import Tensor, nn

from vitadapter_d2.layers.levels import Shapes
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, post-norm.

    Reference: Deformable DETR, Sec. 4.1, arXiv 2010.04159.

    Args:
        embed_dim: width C.
        num_levels: feature levels L.
        num_heads: attention heads.
        num_points: sampling points for each head and level.
        feedforward_dim: hidden width of the feed-forward network.
    """

    def __init__(
        self,
        embed_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(embed_dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        shapes: Shapes,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Mixes the levels; positions are added to the queries only.

        Args:
            tokens: ``(B, S, C)``.
            positions: ``(S, C)`` or ``(B, S, C)``.
            reference_points: ``(B or 1, S, L or 1, 2)`` in [0, 1].
            shapes: ``(H_l, W_l)`` of the levels.
            padding: ``(B, S)`` bool, True for cells that no one shall see.

        Returns:
            ``(B, S, C)``.
        """
        mixed = self.self_attn(tokens + positions, reference_points, tokens, shapes, padding)
        tokens = self.norm1(tokens + mixed)
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))
