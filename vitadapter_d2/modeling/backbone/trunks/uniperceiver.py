"""The visual part of Uni-Perceiver, a ViT that timm does not have.

Behaves as the trunk of the official ViT-Adapter's ``UniPerceiverAdapter`` (Apache-2.0).
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid, resize_position_embedding
from vitadapter_d2.modeling.backbone.attention import Window
from vitadapter_d2.modeling.backbone.plain_vit import (
    PlainViT,
    build_trunk,
    patch_projection,
    repeat_windows,
)
from vitadapter_d2.modeling.backbone.trunks import blocks as timm_blocks


class UniPerceiver(nn.Module):
    """Parameters of Uni-Perceiver's encoder for images; :func:`plain_vit` makes a trunk of it.

    Its blocks are timm's ViT blocks. Images are videos of one frame: a table of spatial and one
    of temporal positions are added to the patches, then normalised. There is no class token, and
    all LayerNorms have torch's default eps of 1e-5.

    Reference: Uni-Perceiver, arXiv 2112.01522; the released ViT-Adapter-B and -L "MM".

    Args:
        embed_dim: width C of the tokens.
        depth: number of blocks.
        num_heads: heads of the self-attention.
        mlp_ratio: inner width of the MLPs over C.
        pretrain_grid: ``(H, W)`` that the spatial positions are stored for.
        num_frames: temporal positions; the first serves images.
        patch_size: side of a patch, in pixels.
        init_values: start of the blocks' LayerScale, None for none.
        drop_path_rate: stochastic depth of the last block, linear from 0.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pretrain_grid: Grid = (14, 14),
        num_frames: int = 8,
        patch_size: int = 16,
        init_values: float | None = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide embed_dim {embed_dim}")
        self.embed_dim = embed_dim
        self.pretrain_grid: Grid = (pretrain_grid[0], pretrain_grid[1])
        proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        positions = self.pretrain_grid[0] * self.pretrain_grid[1]
        self.spatial_pos_embed = nn.Parameter(torch.empty(positions, embed_dim))
        self.temporal_pos_embed = nn.Parameter(torch.empty(num_frames, embed_dim))
        self.embed_norm = nn.LayerNorm(embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias=True,
                # timm takes 0 for "no LayerScale".
                init_values=None if init_values is None else 1.0,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                norm_layer=nn.LayerNorm,
            )
            for index in range(depth)
        )
        self._init_weights(init_values)

    def _init_weights(self, init_values: float | None) -> None:
        for table in (self.spatial_pos_embed, self.temporal_pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(parameter, init_values or 0.0)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02)


class UniPerceiverTrunk(PlainViT):
    """Drives the parts of a :class:`UniPerceiver`.

    Reference: Uni-Perceiver, arXiv 2112.01522; as a trunk of ViT-Adapter with windows in its
    detection models, global in its segmentation model. The adapter's interactions need
    LayerNorms with an eps of 1e-5 for this family.

    Args:
        model: the parameters, which are taken over.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth. Tokens are padded before the projection to queries, keys and values.
        patch_size: stride of the tokens.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: UniPerceiver,
        *,
        window_sizes: Sequence[int | None] = (None,),
        patch_size: int = 16,
        recompute_blocks: bool = False,
    ) -> None:
        blocks = list(model.blocks)
        for block, size in zip(blocks, repeat_windows(window_sizes, len(blocks)), strict=True):
            timm_blocks.take_over(
                block, None if size is None else Window(size, pad_projected=False)
            )
        super().__init__(
            blocks,
            embed_dim=model.embed_dim,
            patch_size=patch_size,
            num_prefix_tokens=0,
            recompute_blocks=recompute_blocks,
        )
        proj: Any = model.patch_embed["proj"]
        self.patch_embed = patch_projection(proj, patch_size)
        self.spatial_pos_embed = model.spatial_pos_embed
        self.temporal_pos_embed = model.temporal_pos_embed
        self.embed_norm = model.embed_norm
        self.pos_grid = model.pretrain_grid

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        patches = self.patch_embed["proj"](image)  # (B, C, H/p, W/p)
        grid = (patches.shape[2], patches.shape[3])
        positions = resize_position_embedding(self.spatial_pos_embed[None], self.pos_grid, grid)
        tokens = patches.flatten(2).transpose(1, 2) + positions + self.temporal_pos_embed[0]
        return self.embed_norm(tokens), grid

    def run_block(self, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        return timm_blocks.run(block, tokens, grid, self.num_prefix_tokens)


build_trunk.register(UniPerceiver, UniPerceiverTrunk)
