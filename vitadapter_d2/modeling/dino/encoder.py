"""Transformer encoder over the levels of a padded batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.deformable_encoder import DeformableEncoderLayer
from vitadapter_d2.layers.levels import flatten_levels
from vitadapter_d2.modeling.dino.coordinates import encode_coordinates
from vitadapter_d2.modeling.dino.structures import PaddedLevels

TEMPERATURE = 20.0  # of the positions; 10000 in DETR


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
            DeformableEncoderLayer(embed_dim, num_levels, num_heads, num_points, feedforward_dim)
            for _ in range(num_layers)
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, embed_dim))
        nn.init.normal_(self.level_embed)
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("linear1.weight", "linear2.weight")):
                nn.init.xavier_uniform_(parameter)

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
            tokens = layer(tokens, positions, reference_points, levels.shapes, levels.padding)
        return tokens
