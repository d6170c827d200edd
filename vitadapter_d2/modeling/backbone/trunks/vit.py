"""The ViT family: ViT, DeiT, AugReg, MAE, CLIP, SigLIP, DINOv2 (timm's ``VisionTransformer``)."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid, resize_position_embedding
from vitadapter_d2.modeling.backbone.attention import SelfAttention, Window
from vitadapter_d2.modeling.backbone.plain_vit import (
    PlainViT,
    build_trunk,
    patch_projection,
    repeat_windows,
)


class TimmViT(PlainViT):
    """Drives the parts of a timm ``VisionTransformer``.

    Reference: ViT, arXiv 2010.11929; as a trunk of ViT-Adapter, arXiv 2205.08534, Sec. 3.1.
    Departures from timm: the patch projection is resized to stride 16 (bilinear), the position
    embedding to the image's grid (bicubic, no antialias); both as in the released models.

    Args:
        model: the timm model; must have absolute positions or none, and pre-norm blocks.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth, e.g. ``(14, 14, None)`` for two windowed blocks and a global one.
        keep_prefix_tokens: run the blocks with class and register tokens; the released models
            of this family drop them.
        patch_size: stride of the tokens.
        antialias_positions: resize positions as timm does.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: VisionTransformer,
        *,
        window_sizes: Sequence[int | None] = (None,),
        keep_prefix_tokens: bool = False,
        patch_size: int = 16,
        antialias_positions: bool = False,
        recompute_blocks: bool = False,
    ) -> None:
        _check_supported(model, keep_prefix_tokens)
        blocks: list[Any] = list(model.blocks)
        for block, size in zip(blocks, repeat_windows(window_sizes, len(blocks)), strict=True):
            window = None if size is None else Window(size, pad_projected=True)
            attn: Any = block.attn
            block.attn = SelfAttention(attn, window)
        super().__init__(
            blocks,
            embed_dim=model.embed_dim,
            patch_size=patch_size,
            num_prefix_tokens=model.num_prefix_tokens if keep_prefix_tokens else 0,
            recompute_blocks=recompute_blocks,
        )
        self.patch_embed = patch_projection(model.patch_embed.proj, patch_size)
        self.pos_embed = model.pos_embed
        self.pos_grid: Grid = tuple(model.patch_embed.grid_size)
        self.antialias_positions = antialias_positions
        self.pos_drop = model.pos_drop
        self.norm_pre = model.norm_pre
        if keep_prefix_tokens:
            self.cls_token = model.cls_token
            self.reg_token = model.reg_token

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        patches = self.patch_embed["proj"](image)  # (B, C, H/p, W/p)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        prefix = self._prefix(len(image))
        if self.pos_embed is not None:
            # Some models store a position for their prefix tokens too, even where these are
            # dropped: released weights keep the slot.
            slots = self.pos_embed.shape[1] - self.pos_grid[0] * self.pos_grid[1]
            tokens = tokens + resize_position_embedding(
                self.pos_embed[:, slots:], self.pos_grid, grid, self.antialias_positions
            )
            if slots and prefix is not None:
                prefix = prefix + self.pos_embed[:, :slots]
        if prefix is not None:
            tokens = torch.cat((prefix, tokens), dim=1)
        return self.norm_pre(self.pos_drop(tokens)), grid

    def _prefix(self, batch: int) -> Tensor | None:
        if not self.num_prefix_tokens:
            return None
        parts = (token for token in (self.cls_token, self.reg_token) if token is not None)
        return torch.cat(tuple(parts), dim=1).expand(batch, -1, -1)

    def run_block(self, block: Any, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        attended = block.attn(block.norm1(tokens), grid, self.num_prefix_tokens)
        tokens = tokens + block.drop_path1(block.ls1(attended))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


build_trunk.register(VisionTransformer, TimmViT)


def _check_supported(model: VisionTransformer, keep_prefix_tokens: bool) -> None:
    """Timm's class covers variants that would run here with other numbers."""
    patch_embed: Any = model.patch_embed
    if type(patch_embed) is not PatchEmbed or type(patch_embed.norm) is not nn.Identity:
        raise ValueError(
            f"patch_embed must be timm's PatchEmbed without a norm, got {patch_embed}: hybrid and "
            "convolutional stems are not supported"
        )
    for block in model.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            raise ValueError(
                "blocks must be timm's Block with its Attention, got "
                f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            )
    if keep_prefix_tokens and hasattr(model, "dist_token"):
        raise ValueError("a distillation token cannot be kept; use keep_prefix_tokens=False")
