"""Timm's ``VisionTransformerRelPos``: ViTs with relative positions in every block."""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

import torch
from timm.layers import RelPosBias, RelPosMlp
from timm.layers.pos_embed_rel import gen_relative_log_coords
from timm.models.vision_transformer_relpos import RelPosAttention, VisionTransformerRelPos
from torch import Tensor, nn

from vitadapter_d2.layers.relative_position import (
    pad_relative_bias,
    relative_bias,
    resize_relative_table,
)
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.attention import LearnedBiasAttention
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class RelPosBiasAttention(LearnedBiasAttention):
    """Attention with a bias from a table, or from an MLP on logarithmic offsets (Swin v2's).

    Reference: Swin Transformer V2, arXiv 2111.09883, Sec. 3.3.

    Args:
        attn: timm's attention, with relative positions of its own.
    """

    def __init__(self, attn: RelPosAttention) -> None:
        super().__init__(attn)
        if attn.rel_pos is None:
            raise ValueError("relative positions that all blocks share are not supported")
        self.rel_pos = attn.rel_pos

    def bias_parameters(self) -> Iterable[Tensor]:
        """See :meth:`LearnedBiasAttention.bias_parameters`."""
        return self.rel_pos.parameters()

    def make_bias(self, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """See :meth:`LearnedBiasAttention.make_bias`."""
        table, extra = _relative_table(self.rel_pos, grid)
        bias = relative_bias(table, grid)
        return pad_relative_bias(bias, extra) if num_prefix_tokens else bias


@singledispatch
def _relative_table(rel_pos: nn.Module, grid: Grid) -> tuple[Tensor, Tensor]:
    """``(2 H - 1, 2 W - 1, M)``, and ``(3, M)`` as ``pad_relative_bias`` wants it."""
    raise ValueError(f"relative positions of type {type(rel_pos).__name__} are not supported")


@_relative_table.register
def _(rel_pos: RelPosBias, grid: Grid) -> tuple[Tensor, Tensor]:
    height, width = rel_pos.window_size
    rows = rel_pos.relative_position_bias_table
    patches = rows[: (2 * height - 1) * (2 * width - 1)]
    table = patches.unflatten(0, (2 * height - 1, 2 * width - 1))
    return resize_relative_table(table, grid), rows[-3:]


@_relative_table.register
def _(rel_pos: RelPosMlp, grid: Grid) -> tuple[Tensor, Tensor]:
    weight = rel_pos.mlp.fc1.weight
    offsets = gen_relative_log_coords(
        grid,
        rel_pos.pretrained_window_size,
        mode=rel_pos.mode,
        device=weight.device,
        dtype=weight.dtype,
    )
    table = rel_pos.bias_act(rel_pos.mlp(offsets)) * (rel_pos.bias_gain or 1.0)
    return table, torch.zeros_like(table[0, 0]).expand(3, -1)


class TimmRelPosViT(TimmTrunk):
    """Drives the blocks of a timm ``VisionTransformerRelPos``, on any grid.

    Not among the released ViT-Adapter models.

    Args:
        model: the timm model, with relative positions in every block.
        keep_prefix_tokens: run the blocks with the class token, where there is one.
        patch_size: stride of the tokens.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: VisionTransformerRelPos,
        *,
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        recompute_blocks: bool = False,
    ) -> None:
        blocks: list[Any] = list(model.blocks)
        for block in blocks:
            block.attn = RelPosBiasAttention(block.attn)
        super().__init__(
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=False,
            recompute_blocks=recompute_blocks,
        )


build_trunk.register(VisionTransformerRelPos, TimmRelPosViT)
