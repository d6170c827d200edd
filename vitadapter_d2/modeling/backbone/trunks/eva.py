"""Timm's ViTs with rotary positions.

``Eva`` (EVA, EVA-02, DINOv3, Perception Encoder, Sapiens2, RoPE-ViT) and the vision encoders of
two language models.
"""

from typing import Any

from timm.layers.pos_embed_sincos import get_mixed_freqs, get_mixed_grid
from timm.models.deepseek_vit import DeepseekVitEncoder
from timm.models.eva import Eva
from timm.models.qwen3_vit import Qwen3VitEncoder, resample_pos_embed_grid
from torch import Tensor

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.plain_vit import build_trunk
from vitadapter_d2.modeling.backbone.trunks.blocks import keep_fused
from vitadapter_d2.modeling.backbone.trunks.timm_trunk import TimmTrunk


class TimmEva(TimmTrunk):
    """Drives blocks that take rotary positions, which follow the image's grid.

    Reference: EVA-02, arXiv 2303.11331; DINOv3, arXiv 2508.10104; RoPE-ViT, arXiv 2403.13298.
    Not among the released ViT-Adapter models, so attention is timm's own, global.

    Args:
        model: the timm model.
        keep_prefix_tokens: run the blocks with class and register tokens, as pre-trained.
        patch_size: stride of the tokens.
        antialias_positions: resize absolute positions as timm does.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        model: Eva | DeepseekVitEncoder | Qwen3VitEncoder,
        *,
        keep_prefix_tokens: bool = True,
        patch_size: int = 16,
        antialias_positions: bool = False,
        recompute_blocks: bool = False,
    ) -> None:
        blocks: list[Any] = list(model.blocks)
        super().__init__(
            model,
            blocks,
            keep_prefix_tokens=keep_prefix_tokens,
            patch_size=patch_size,
            antialias_positions=antialias_positions,
            recompute_blocks=recompute_blocks,
        )
        rope: Any = model.rope
        if hasattr(rope, "_use_cached_embed"):
            # The table that a model made for one size keeps would be shared by all threads.
            rope._use_cached_embed = False
        self.rope = rope
        # Frequencies of their own for every block.
        self.rope_is_mixed = getattr(model, "rope_mixed", False)
        self._augmented_rope: Tensor | None = None
        for index, block in enumerate(blocks):
            keep_fused(block.attn)
            block.attn.num_prefix_tokens = self.num_prefix_tokens
            block.depth_index = index

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """See :meth:`PlainViT.embed`."""
        tokens, grid = super().embed(image)
        # Some models augment the coordinates in training: all blocks must see the same draw.
        augments = self.training and getattr(self.rope, "aug_active", False)
        self._augmented_rope = self._rotary_table(grid) if augments else None
        return tokens, grid

    def run_block(self, block: Any, tokens: Tensor, grid: Grid) -> Tensor:
        """See :meth:`PlainViT.run_block`."""
        # Not as a module: whoever hooks into a block hooks into the whole of run_block.
        if self.rope is None:
            return block.forward(tokens)
        return block.forward(tokens, rope=self._rotary(block.depth_index, grid))

    def _rotary(self, depth_index: int, grid: Grid) -> Tensor:
        if self._augmented_rope is not None:
            return self._augmented_rope[depth_index] if self.rope_is_mixed else self._augmented_rope
        if not self.rope_is_mixed:
            return self._rotary_table(grid)
        # One block at a time: timm's table of all blocks takes depth times the memory.
        frequencies = self.rope.freqs[:, depth_index]
        places = get_mixed_grid(list(grid), self.rope.grid_indexing, device=frequencies.device)
        return get_mixed_freqs(frequencies, *places)

    def _rotary_table(self, grid: Grid) -> Tensor:
        # Before timm 1.0.31 a model made for one size has nothing but its table.
        if hasattr(self.rope, "update_feat_shape"):
            self.rope.update_feat_shape(list(grid))
        return self.rope.get_embed(shape=list(grid))


class TimmQwen3ViT(TimmEva):
    """Drives a timm ``Qwen3VitEncoder``, which has a rule of its own for resizing positions.

    Reference: Qwen3-VL, arXiv 2511.21631.

    Args:
        model: the timm model.
        **options: as :class:`TimmEva`; ``antialias_positions`` has no effect.
    """

    def __init__(self, model: Qwen3VitEncoder, **options: Any) -> None:
        super().__init__(model, **options)
        self.pos_grid = (model.pos_embed_grid_size, model.pos_embed_grid_size)

    def resize_positions(self, table: Tensor, grid: Grid) -> Tensor:
        """See :meth:`TimmTrunk.resize_positions`; bilinear with aligned corners."""
        return resample_pos_embed_grid(table, self.pos_grid[0], grid)


build_trunk.register(Eva, TimmEva)
build_trunk.register(DeepseekVitEncoder, TimmEva)
build_trunk.register(Qwen3VitEncoder, TimmQwen3ViT)
