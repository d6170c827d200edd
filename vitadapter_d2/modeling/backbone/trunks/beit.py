"""The BEiT family: BEiT and BEiTv2 (timm's ``Beit``)."""

from collections.abc import Sequence
from typing import Any

from timm.models.beit import Beit

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.attention import RelativeBiasAttention, Window
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk, repeat_windows
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmBeit(TimmTrunk):
    """Drives the parts of a timm ``Beit``.

    Reference: BEiT, arXiv 2106.08254; BEiTv2, arXiv 2208.06366; as trunks of ViT-Adapter in its
    segmentation models (class token kept, global attention) and detection models (dropped,
    windows).

    Args:
        model: the timm model, with a relative-position table in every block.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth. A windowed block's table is stored for its window.
        table_grid: ``(H, W)`` that the tables of the global blocks are stored for; None takes the
            model's. The released segmentation models have the grid of their crops.
        keep_prefix_tokens: run the blocks with the class token; not with windows.
        patch_size: stride of the tokens.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: Beit,
        *,
        window_sizes: Sequence[int | None] = (None,),
        table_grid: Grid | None = None,
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        recompute_blocks: bool = False,
    ) -> None:
        blocks: list[Any] = list(model.blocks)
        grid: Grid = tuple(table_grid or model.patch_embed.grid_size)
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
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=False,
            recompute_blocks=recompute_blocks,
        )


build_trunk.register(Beit, TimmBeit)
