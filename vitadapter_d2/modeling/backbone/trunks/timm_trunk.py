"""What the trunks of all timm families share: from an image to tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid, resize_position_embedding
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, patch_projection
from vitadapter_d2.modeling.backbone.trunks import blocks as timm_blocks


class TimmTrunk(PlainViT):
    """Takes over the embedding parts of a timm model, under timm's names, and drives its blocks.

    Departures from timm: the patch projection is resized to another stride (bilinear), the
    position embedding to the image's grid (bicubic, no antialias); both as in the released models.

    Args:
        model: a timm model with a convolutional patch projection; class, distillation and register
            tokens, absolute positions and norms before the blocks are used where it has them.
        blocks: its blocks, ready for ``run_block``.
        keep_prefix_tokens: run the blocks with class, distillation and register tokens.
        patch_size: stride of the tokens.
        antialias_positions: resize positions as timm does.
        recompute_blocks: checkpoint the activations of every block.

    Raises:
        ValueError: the stem is not one projection of patches.
    """

    def __init__(
        self,
        model: Any,
        blocks: Sequence[nn.Module],
        *,
        keep_prefix_tokens: bool,
        patch_size: int,
        antialias_positions: bool,
        recompute_blocks: bool,
    ) -> None:
        if type(model.patch_embed) is not PatchEmbed:
            raise ValueError(
                "hybrid and convolutional stems are not supported: patch_embed must be timm's "
                f"PatchEmbed, got {type(model.patch_embed).__name__}"
            )
        prefix = {
            name: token
            for name in ("cls_token", "dist_token", "reg_token")
            if keep_prefix_tokens and (token := getattr(model, name, None)) is not None
        }
        super().__init__(
            blocks,
            embed_dim=model.embed_dim,
            patch_size=patch_size,
            num_prefix_tokens=sum(token.shape[1] for token in prefix.values()),
            recompute_blocks=recompute_blocks,
        )
        self.patch_embed = patch_projection(model.patch_embed.proj, patch_size)
        self.patch_embed["norm"] = model.patch_embed.norm
        self.pos_embed = getattr(model, "pos_embed", None)
        self.pos_grid: Grid = tuple(model.patch_embed.grid_size)
        self.antialias_positions = antialias_positions
        self.pos_drop = getattr(model, "pos_drop", nn.Identity())
        self.norm_pre = getattr(model, "norm_pre", nn.Identity())
        self._prefix_names = tuple(prefix)
        for name, token in prefix.items():
            self.register_parameter(name, token)

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        patches = self.patch_embed["proj"](image)  # (B, C, H/p, W/p)
        grid = (patches.shape[2], patches.shape[3])
        tokens = self.patch_embed["norm"](patches.flatten(2).transpose(1, 2))
        prefix: list[Tensor] = [self.get_parameter(name) for name in self._prefix_names]
        if self.pos_embed is not None:
            positions = self.pos_embed.flatten(1, -2)  # some are stored as a map
            # Some models store a position for their prefix tokens too, even where these are
            # dropped: released weights keep the slot.
            slots = positions.shape[1] - self.pos_grid[0] * self.pos_grid[1]
            tokens = tokens + self.resize_positions(positions[:, slots:], grid)
            if slots and prefix:
                prefix = [torch.cat(prefix, dim=1) + positions[:, :slots]]
        if prefix:
            front = torch.cat(prefix, dim=1).expand(len(image), -1, -1)
            tokens = torch.cat((front, tokens), dim=1)
        return self.norm_pre(self.pos_drop(tokens)), grid

    def resize_positions(self, table: Tensor, grid: Grid) -> Tensor:
        """Positions of patches for a grid, ``(1, N, C)`` from the stored ``(1, N', C)``."""
        return resize_position_embedding(table, self.pos_grid, grid, self.antialias_positions)

    def run_block(self, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        return timm_blocks.run(block, tokens, grid, self.num_prefix_tokens)
