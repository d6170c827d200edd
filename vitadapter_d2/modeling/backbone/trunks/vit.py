"""The ViT family: ViT, DeiT, AugReg, MAE, CLIP, SigLIP, DINOv2 (timm's ``VisionTransformer``)."""

from collections.abc import Sequence
from typing import Any

from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.attention import SelfAttention, Window
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk, repeat_windows
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmViT(TimmTrunk):
    """Drives the parts of a timm ``VisionTransformer``.

    Reference: ViT, arXiv 2010.11929; as a trunk of ViT-Adapter, arXiv 2205.08534, Sec. 3.1.

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
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=antialias_positions,
            recompute_blocks=recompute_blocks,
        )

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
