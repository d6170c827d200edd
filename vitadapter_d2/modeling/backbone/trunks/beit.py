"""The BEiT family: BEiT and BEiTv2 (timm's ``Beit``)."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid, resize_position_embedding
from vitadapter_d2.modeling.backbone.attention import RelativeBiasAttention, Window
from vitadapter_d2.modeling.backbone.plain_vit import (
    PlainViT,
    build_trunk,
    patch_projection,
    repeat_windows,
)


class TimmBeit(PlainViT):
    """Drives the parts of a timm ``Beit``.

    Reference: BEiT, arXiv 2106.08254; BEiTv2, arXiv 2208.06366; as trunks of ViT-Adapter in its
    segmentation models (class token kept, global attention) and detection models (dropped,
    windows).

    Args:
        model: the timm model, with a relative-position table in every block.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth. A windowed block's table is stored for its window.
        keep_prefix_tokens: run the blocks with the class token; not with windows.
        patch_size: stride of the tokens.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: Beit,
        *,
        window_sizes: Sequence[int | None] = (None,),
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        recompute_blocks: bool = False,
    ) -> None:
        blocks: list[Any] = list(model.blocks)
        grid: Grid = tuple(model.patch_embed.grid_size)
        for block, size in zip(blocks, repeat_windows(window_sizes, len(blocks)), strict=True):
            if block.attn.relative_position_bias_table is None:
                raise ValueError("every block must have a relative-position table of its own")
            block.attn = RelativeBiasAttention(
                block.attn,
                table_grid=grid if size is None else (size, size),
                has_class_token=keep_prefix_tokens,
                window=None if size is None else Window(size, pad_projected=False),
            )
        super().__init__(
            blocks,
            embed_dim=model.embed_dim,
            patch_size=patch_size,
            num_prefix_tokens=1 if keep_prefix_tokens else 0,
            recompute_blocks=recompute_blocks,
        )
        self.patch_embed = patch_projection(model.patch_embed.proj, patch_size)
        self.pos_embed = model.pos_embed
        self.pos_grid = grid
        self.pos_drop = model.pos_drop
        if keep_prefix_tokens:
            self.cls_token = model.cls_token

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        patches = self.patch_embed["proj"](image)  # (B, C, H/p, W/p)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            positions = self.pos_embed[:, 1:]
            tokens = tokens + resize_position_embedding(positions, self.pos_grid, grid)
        if self.num_prefix_tokens:
            prefix: Tensor = self.cls_token
            if self.pos_embed is not None:
                prefix = prefix + self.pos_embed[:, :1]
            tokens = torch.cat((prefix.expand(len(image), -1, -1), tokens), dim=1)
        return self.pos_drop(tokens), grid

    def run_block(self, block: Any, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        attended = block.attn(block.norm1(tokens), grid, self.num_prefix_tokens)
        tokens = tokens + block.drop_path1(_scale(attended, block.gamma_1))
        return tokens + block.drop_path2(_scale(block.mlp(block.norm2(tokens)), block.gamma_2))


build_trunk.register(Beit, TimmBeit)


def _scale(branch: Tensor, gamma: nn.Parameter | None) -> Tensor:
    return branch if gamma is None else gamma * branch
