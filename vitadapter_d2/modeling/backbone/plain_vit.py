"""The narrow protocol through which the adapter drives any plain Vision Transformer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from torch import Tensor, nn

from vitadapter_d2.layers import recompute
from vitadapter_d2.layers.resample import Grid, resize_patch_kernel

# Models of one token grid that are still no trunk, by the name of their timm class.
UNSUITABLE = {
    "Cait": "its heads are mixed inside the softmax, which takes all N x N attention weights",
    "ConVit": "its gates blend two attention maps, which takes all N x N attention weights",
    "DeepseekVitClassifier": "use its encoder, the model whose name ends in _enc",
    "Gemma4VitClassifier": "its clipped linear layers and pooled positions are not driven here",
    "Gemma4VitEncoder": "its clipped linear layers and pooled positions are not driven here",
    "Qwen3VitClassifier": "use its encoder, the model whose name ends in _enc",
    "TNT": "every patch has an inner Transformer, so its tokens are not one grid",
    "Xcit": "it attends across channels and convolves between, so it has no token attention",
}


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
    name = type(model).__name__
    if name in UNSUITABLE:
        raise TypeError(f"no trunk for a {name}: {UNSUITABLE[name]}")
    known = sorted(kind.__name__ for kind in build_trunk.registry if kind is not object)
    raise TypeError(f"no trunk for a {name}; supported timm classes: {known}")


def plain_vit(model: nn.Module, **options: Any) -> PlainViT:
    """Wraps a timm model; the family is chosen by its type, each in a file of ``trunks/``.

    Args:
        model: a timm model; parts of it are taken over, the rest (head, final norm, pool) is left.
        **options: the family's own, see there.

    Raises:
        TypeError: no family knows this type of model.
    """
    return build_trunk(model, **options)


def repeat_windows(window_sizes: Sequence[int | None], depth: int) -> list[int | None]:
    """Window sizes of all blocks from those of the first few.

    Raises:
        ValueError: their number does not divide the depth.
    """
    if not window_sizes or depth % len(window_sizes):
        raise ValueError(
            f"window_sizes has {len(window_sizes)} entries, which must divide the depth {depth}"
        )
    return list(window_sizes) * (depth // len(window_sizes))


def patch_projection(proj: nn.Conv2d, patch_size: int) -> nn.ModuleDict:
    """A timm patch projection under its name, resized (bilinear) to another patch size.

    Args:
        proj: convolution with kernel and stride equal.
        patch_size: stride wanted, in pixels.
    """
    size = (patch_size, patch_size)
    if proj.kernel_size == size:
        return nn.ModuleDict({"proj": proj})
    weight = resize_patch_kernel(proj.weight.detach(), size)
    resized = nn.Conv2d(
        proj.in_channels,
        proj.out_channels,
        kernel_size=size,
        stride=size,
        bias=proj.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    resized.weight = nn.Parameter(weight)
    if proj.bias is not None:
        resized.bias = proj.bias
    return nn.ModuleDict({"proj": resized})
