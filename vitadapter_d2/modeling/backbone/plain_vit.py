"""The narrow protocol through which the adapter drives any plain Vision Transformer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from torch import Tensor, nn

from vitadapter_d2.layers import recompute
from vitadapter_d2.layers.resample import Grid


class PlainViT(nn.Module, ABC):
    """A trunk that can be run a few blocks at a time; built by :func:`plain_vit`.

    Parameters have the names they have in timm.

    Args:
        blocks: the transformer blocks.
        embed_dim: width C of the tokens.
        patch_size: stride of the tokens, in pixels.
        num_prefix_tokens: class and register tokens that :meth:`embed` puts in front.
        recompute_blocks: checkpoint the activations of every block.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        embed_dim: int,
        patch_size: int,
        num_prefix_tokens: int,
        recompute_blocks: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.num_prefix_tokens = num_prefix_tokens
        self.recompute_blocks = recompute_blocks

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @abstractmethod
    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """Patches and positions.

        Args:
            image: ``(B, 3, H, W)`` normalised float, sides multiples of ``patch_size``.

        Returns:
            tokens ``(B, num_prefix_tokens + H/p * W/p, C)`` and the grid ``(H/p, W/p)``.
        """

    @abstractmethod
    def run_block(self, block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
        """One block of ``self.blocks`` on the tokens of :meth:`embed`."""

    def run(self, tokens: Tensor, grid: Grid, first: int, last: int) -> Tensor:
        """Blocks ``first`` to ``last``, both included.

        Args:
            tokens: as returned by :meth:`embed` or an earlier call.
            grid: as returned by :meth:`embed`.
            first: index of the first block.
            last: index of the last block.

        Returns:
            As ``tokens``.
        """
        for block in self.blocks[first : last + 1]:
            tokens = recompute.run(
                self.run_block, block, tokens, grid, recompute=self.recompute_blocks
            )
        return tokens


@singledispatch
def build_trunk(model: nn.Module, **options: Any) -> PlainViT:
    """What :func:`plain_vit` calls: families register here, by the class of their timm model."""
    known = sorted(kind.__name__ for kind in build_trunk.registry if kind is not object)
    raise TypeError(f"no trunk for a {type(model).__name__}; supported timm classes: {known}")


def plain_vit(model: nn.Module, **options: Any) -> PlainViT:
    """Wraps a timm model; the family is chosen by its type, each in a file of ``trunks/``.

    Args:
        model: a timm model; parts of it are taken over, the rest (head, final norm, pool) is left.
        **options: the family's own, see there.

    Raises:
        TypeError: no family knows this type of model.
    """
    return build_trunk(model, **options)
