"""The image encoders of Segment Anything, timm's ``VisionTransformerSAM``."""

from typing import Any

from timm.models.vision_transformer_sam import VisionTransformerSAM

from vitadapter_d2.modeling.backbone.attention import (
    DecomposedBiasAttention,
    SelfAttention,
    Window,
)
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmSam(TimmTrunk):
    """Drives the blocks of a timm ``VisionTransformerSAM``: ViTDet's windows and global blocks.

    Reference: ViTDet, arXiv 2203.16527; Segment Anything, arXiv 2304.02643. Not among the released
    ViT-Adapter models. The neck is left.

    Args:
        model: the timm model; its own windows are kept.
        patch_size: stride of the tokens.
        antialias_positions: resize absolute positions as timm does.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: VisionTransformerSAM,
        *,
        patch_size: int = 16,
        antialias_positions: bool = False,
        recompute_blocks: bool = False,
    ) -> None:
        blocks: list[Any] = list(model.blocks)
        for block in blocks:
            if block.attn.rope is not None:
                raise ValueError("rotary positions in a VisionTransformerSAM are not supported")
            size = block.window_size
            window = Window(size, pad_projected=False) if size else None
            kind = DecomposedBiasAttention if block.attn.use_rel_pos else SelfAttention
            block.attn = kind(block.attn, window)
        super().__init__(
            model,
            blocks,
            keep_prefix_tokens=False,
            patch_size=patch_size,
            antialias_positions=antialias_positions,
            recompute_blocks=recompute_blocks,
        )


build_trunk.register(VisionTransformerSAM, TimmSam)
