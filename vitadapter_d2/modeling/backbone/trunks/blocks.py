"""How the blocks of timm's ViTs are driven: by their type, in two steps.

``take_over`` puts this project's attention in the place of timm's; ``run`` computes the block.
"""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

from timm.layers import Attention, DiffAttention
from timm.models.beit import Block as BeitBlock
from timm.models.vision_transformer import (
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock
from timm.models.vision_transformer_sam import Block as SamBlock
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.attention import SelfAttention, Window


def take_over(block: nn.Module, window: Window | None) -> None:
    """Replaces the attention of a block in place; parameters keep their names.

    Args:
        block: a block of a timm ViT.
        window: None for global attention.

    Raises:
        ValueError: this type of block or attention is not supported, or not with windows.
    """
    _check_exact_type(block, _take_over.registry, "blocks")
    _take_over(block, window)


@singledispatch
def _take_over(block: nn.Module, window: Window | None) -> None:
    raise NotImplementedError


@_take_over.register(Block)
@_take_over.register(ResPostBlock)
def _(block: Any, window: Window | None) -> None:
    block.attn = _own_attention(block.attn, window)


@_take_over.register
def _(block: ParallelThingsBlock, window: Window | None) -> None:
    branches: Any = block.attns
    for branch in branches:
        branch.attn = _own_attention(branch.attn, window)


@_take_over.register(ParallelScalingBlock)
@_take_over.register(DiffParallelScalingBlock)
def _(block: Any, window: Window | None) -> None:
    keep_fused(block, window)


def _own_attention(attn: nn.Module, window: Window | None) -> nn.Module:
    _check_exact_type(attn, _replace.registry, "attentions")
    return _replace(attn, window)


@singledispatch
def _replace(attn: nn.Module, window: Window | None) -> nn.Module:
    raise NotImplementedError


@_replace.register
def _(attn: Attention, window: Window | None) -> nn.Module:
    return SelfAttention(attn, window)


@_replace.register
def _(attn: DiffAttention, window: Window | None) -> nn.Module:
    keep_fused(attn, window)
    return attn


def _check_exact_type(part: nn.Module, known: Mapping[Any, Any], what: str) -> None:
    """A subclass may compute something else, so it must be registered itself."""
    if type(part) not in known:
        raise ValueError(f"{what} of type {type(part).__name__} are not supported")


def keep_fused(part: Any, window: Window | None = None) -> None:
    """Lets timm's own code attend, through ``scaled_dot_product_attention`` whatever is set."""
    if window is not None:
        raise ValueError(
            f"{type(part).__name__} attends globally, got window size {window.size}: "
            "use window_sizes=(None,)"
        )
    part.fused_attn = True


@singledispatch
def run(block: nn.Module, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    """One block that ``take_over`` has prepared.

    Args:
        block: the block.
        tokens: ``(B, num_prefix_tokens + H * W, C)``.
        grid: ``(H, W)`` of the patch tokens.
        num_prefix_tokens: class and register tokens in front.

    Returns:
        As ``tokens``.
    """
    raise ValueError(f"blocks of type {type(block).__name__} are not supported")


@run.register(Block)
@run.register(SamBlock)
@run.register(RelPosBlock)
def _(block: Any, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    attended = _attend(block.attn, block.norm1(tokens), grid, num_prefix_tokens)
    tokens = tokens + block.drop_path1(block.ls1(attended))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


@run.register(ResPostBlock)
@run.register(ResPostRelPosBlock)
def _(block: Any, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    attended = _attend(block.attn, tokens, grid, num_prefix_tokens)
    tokens = tokens + block.drop_path1(block.norm1(attended))
    return tokens + block.drop_path2(block.norm2(block.mlp(tokens)))


@run.register
def _(block: BeitBlock, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    attended = _attend(block.attn, block.norm1(tokens), grid, num_prefix_tokens)
    tokens = tokens + block.drop_path1(_scale(attended, block.gamma_1))
    return tokens + block.drop_path2(_scale(block.mlp(block.norm2(tokens)), block.gamma_2))


@run.register
def _(block: ParallelThingsBlock, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    branches: Any = block.attns
    attended = [
        branch.drop_path(
            branch.ls(_attend(branch.attn, branch.norm(tokens), grid, num_prefix_tokens))
        )
        for branch in branches
    ]
    tokens = tokens + sum(attended)
    return tokens + sum(ffn(tokens) for ffn in block.ffns)


@run.register(ParallelScalingBlock)
@run.register(DiffParallelScalingBlock)
def _(block: Any, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    return block.forward(tokens)  # as all others, without hooks of a module


def _attend(attn: nn.Module, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
    if isinstance(attn, SelfAttention):
        return attn(tokens, grid, num_prefix_tokens)
    return attn(tokens)


def _scale(branch: Tensor, gamma: nn.Parameter | None) -> Tensor:
    return branch if gamma is None else gamma * branch
