"""What the trunks of all timm families share: from an image to tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid, resize_position_embedding
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, patch_projection


class TimmTrunk(PlainViT):
    """Takes over the embedding parts of a timm model, under timm's names.

    Departures from timm: the patch projection is resized to another stride (bilinear), the
    position embedding to the image's grid (bicubic, no antialias); both as in the released models.

    Args:
        model: a timm model with a convolutional patch projection; class and register tokens,
            absolute positions and a norm before the blocks are used where it has them.
        blocks: its blocks, ready for ``run_block``.
        keep_prefix_tokens: run the blocks with class and register tokens.
        patch_size: stride of the tokens.
        antialias_positions: resize positions as timm does.
        recompute_blocks: checkpoint the activations of every block.
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
        prefix = {
            name: token
            for name in ("cls_token", "reg_token")
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
        self.pos_embed = model.pos_embed
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
        tokens = patches.flatten(2).transpose(1, 2)
        prefix: list[Tensor] = [self.get_parameter(name) for name in self._prefix_names]
        if self.pos_embed is not None:
            # Some models store a position for their prefix tokens too, even where these are
            # dropped: released weights keep the slot.
            slots = self.pos_embed.shape[1] - self.pos_grid[0] * self.pos_grid[1]
            tokens = tokens + resize_position_embedding(
                self.pos_embed[:, slots:], self.pos_grid, grid, self.antialias_positions
            )
            if slots and prefix:
                prefix = [torch.cat(prefix, dim=1) + self.pos_embed[:, :slots]]
        if prefix:
            front = torch.cat(prefix, dim=1).expand(len(image), -1, -1)
            tokens = torch.cat((front, tokens), dim=1)
        return self.norm_pre(self.pos_drop(tokens)), grid
