"""The EVA family: EVA, EVA-02, DINOv3 and other rotary ViTs (timm's ``Eva``)."""

from typing import Any

from timm.models.eva import Eva
from torch import Tensor

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmEva(TimmTrunk):
    """Drives the blocks of a timm ``Eva``; rotary positions follow the image's grid.

    Reference: EVA-02, arXiv 2303.11331; DINOv3, arXiv 2508.10104. Not among the released
    ViT-Adapter models, so attention is timm's own, global.

    Args:
        model: the timm model; without positions that are mixed per block.
        keep_prefix_tokens: run the blocks with class and register tokens, as pre-trained.
        patch_size: stride of the tokens.
        antialias_positions: resize absolute positions as timm does.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: Eva,
        *,
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        antialias_positions: bool = False,
        recompute_blocks: bool = False,
    ) -> None:
        if getattr(model, "rope_mixed", False):
            raise ValueError("rotary positions that are learned per block are not supported")
        blocks: list[Any] = list(model.blocks)
        super().__init__(
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=antialias_positions,
            recompute_blocks=recompute_blocks,
        )
        self.rope: Any = model.rope
        for block in blocks:
            block.attn.num_prefix_tokens = self.num_prefix_tokens

    def run_block(self, block: Any, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        if self.rope is None:
            return block(tokens)
        # A model made for one size keeps its table; others compute one for the shape.
        if hasattr(self.rope, "update_feat_shape"):
            self.rope.update_feat_shape(list(grid))
        return block(tokens, rope=self.rope.get_embed(shape=list(grid)))


build_trunk.register(Eva, TimmEva)
