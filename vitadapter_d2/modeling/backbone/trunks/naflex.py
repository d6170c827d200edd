"""Timm's ``NaFlexVit``: SigLIP 2 NaFlex and RADIO with their own rules for positions."""

from collections.abc import Sequence
from typing import Any

from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.attention import Window
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, build_trunk, repeat_windows
from vitadapter_d2.modeling.backbone.trunks import blocks as timm_blocks


class TimmNaFlexViT(PlainViT):
    """Drives the parts of a timm ``NaFlexVit`` on a batch of images of one size.

    Reference: NaViT, arXiv 2307.06304; SigLIP 2, arXiv 2502.14786; AM-RADIO, arXiv 2312.06709.
    Not among the released ViT-Adapter models, so positions are resized by the model's own rule.

    Args:
        model: the timm model, without rotary positions.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth.
        keep_prefix_tokens: run the blocks with class and register tokens.
        patch_size: stride of the tokens, which must be the model's.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: NaFlexVit,
        *,
        window_sizes: Sequence[int | None] = (None,),
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        recompute_blocks: bool = False,
    ) -> None:
        embeds: Any = model.embeds
        if model.rope is not None:
            raise ValueError("rotary positions in a NaFlexVit are not supported")
        if embeds.patch_size != (patch_size, patch_size):
            raise ValueError(
                f"a NaFlexVit keeps its patch size {embeds.patch_size}, got patch_size={patch_size}"
            )
        blocks = list(model.blocks)
        for block, size in zip(blocks, repeat_windows(window_sizes, len(blocks)), strict=True):
            window = None if size is None else Window(size, pad_projected=True)
            timm_blocks.take_over(block, window)
        if not keep_prefix_tokens:
            embeds.cls_token = embeds.reg_token = None
        super().__init__(
            blocks,
            embed_dim=model.embed_dim,
            patch_size=patch_size,
            num_prefix_tokens=embeds.num_prefix_tokens if keep_prefix_tokens else 0,
            recompute_blocks=recompute_blocks,
        )
        self.embeds = embeds
        self.norm_pre = model.norm_pre

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        tokens, (height, width) = self.embeds(image)
        return self.norm_pre(tokens), (height, width)

    def run_block(self, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        return timm_blocks.run(block, tokens, grid, self.num_prefix_tokens)


build_trunk.register(NaFlexVit, TimmNaFlexViT)
