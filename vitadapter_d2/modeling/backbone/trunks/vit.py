"""The ViT family, timm's ``VisionTransformer``.

ViT, DeiT, DeiT-III, AugReg, MAE, CLIP, SigLIP, DINO, DINOv2, BEiT-3, AIMv2, InternViT, RADIO.
"""

from collections.abc import Sequence

from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.modeling.backbone.attention import Window
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk, repeat_windows
from vitadapter_d2.modeling.backbone.trunks.blocks import take_over
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmViT(TimmTrunk):
    """Drives the parts of a timm ``VisionTransformer``.

    Reference: ViT, arXiv 2010.11929; as a trunk of ViT-Adapter, arXiv 2205.08534, Sec. 3.1.

    Args:
        model: the timm model; its blocks must be of a type that ``trunks/blocks.py`` knows.
        window_sizes: attention window of each block, None for global attention; repeated over
            the depth, e.g. ``(14, 14, None)`` for two windowed blocks and a global one.
        keep_prefix_tokens: run the blocks with class, distillation and register tokens; the
            released models of this family drop them.
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
        blocks = list(model.blocks)
        for block, size in zip(blocks, repeat_windows(window_sizes, len(blocks)), strict=True):
            take_over(block, None if size is None else Window(size, pad_projected=True))
        super().__init__(
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=antialias_positions,
            recompute_blocks=recompute_blocks,
        )


build_trunk.register(VisionTransformer, TimmViT)
