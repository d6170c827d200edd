"""Transformer encoder over the levels of a padded batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.levels import flatten_levels
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.modeling.dino.coordinates import encode_coordinates
from vitadapter_d2.modeling.dino.structures import PaddedLevels
from vitadapter_d2.modeling.mask2former.transformer_decoder import FFNLayer

TEMPERATURE = 20.0  # of the positions; 10000 in DETR


class EncoderLayer(nn.Module):
    """Deformable self-attention that does not see the padding, and a feed-forward network.

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
        self.norm = nn.LayerNorm(embed_dim)
        self.ffn = FFNLayer(embed_dim, feedforward_dim)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference_points: Tensor, levels: PaddedLevels
    ) -> Tensor:
        """Mixes the levels; positions are added to the queries only.

        Args:
            tokens: ``(B, S, C)``.
            positions: ``(B, S, C)``.
            reference_points: ``(B, S, L, 2)`` in [0, 1] of the padded maps.
            levels: layout of the batch.

        Returns:
            ``(B, S, C)``.
        """
        mixed = self.self_attn(
            tokens + positions, reference_points, tokens, levels.shapes, levels.padding
        )
        return self.ffn(self.norm(tokens + mixed))


class DeformableEncoder(nn.Module):
    """Encodes levels together, each marked by a learned vector.

    Reference: DINO, Sec. 3.2, arXiv 2203.03605; Deformable DETR, Sec. 4.1, arXiv 2010.04159.
    No dropout (0 in DINO's recipe).

    Args:
        embed_dim: width C, a multiple of 4.
        num_levels: feature levels L.
        num_heads: attention heads.
        num_points: sampling points for each head and level.
        feedforward_dim: hidden width of the feed-forward networks.
        num_layers: number of layers.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward_dim: int = 2048,
        num_layers: int = 6,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dim, num_levels, num_heads, num_points, feedforward_dim)
            for _ in range(num_layers)
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor], levels: PaddedLevels) -> Tensor:
        """Encodes the levels.

        Args:
            maps: L maps ``(B, C, H_l, W_l)``.
            levels: layout of the batch.

        Returns:
            ``(B, S, C)``, levels one after the other, in the type of the parameters.
        """
        dim = self.level_embed.shape[1]
        # Rows before columns.
        waves = encode_coordinates(levels.cell_ends.flip(-1), dim // 2, TEMPERATURE)
        positions = torch.cat(
            [
                level_waves + embed
                for level_waves, embed in zip(
                    waves.split([height * width for height, width in levels.shapes], dim=1),
                    self.level_embed,
                    strict=True,
                )
            ],
            dim=1,
        )
        # Under autocast the residual stream stays in float32, whatever the convolutions gave.
        tokens = flatten_levels(maps).to(self.level_embed.dtype)
        reference_points = levels.in_batch(levels.centers)
        for layer in self.layers:
            tokens = layer(tokens, positions, reference_points, levels)
        return tokens
