"""The exchange between the ViT's tokens and the spatial prior's pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vitadapter_d2.layers import recompute
from vitadapter_d2.layers.levels import flatten_levels, level_centers, split_levels
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class Geometry:
    """Sizes and cell centres that all interactions of one forward share.

    Attributes:
        grid: ``(H, W)`` of the ViT's patch tokens.
        levels: ``(H, W)`` of the pyramid's strides 8, 16 and 32.
        grid_centers: ``(1, N, 1, 2)``, see ``level_centers``.
        level_centers: ``(1, S, 1, 2)``.
    """

    grid: Grid
    levels: tuple[Grid, ...]
    grid_centers: Tensor
    level_centers: Tensor

    @classmethod
    def of(cls, grid: Grid, levels: Sequence[Grid], device: torch.device) -> "Geometry":
        """Computes the centres."""
        return cls(
            grid, tuple(levels), level_centers([grid], device), level_centers(levels, device)
        )


class Injector(nn.Module):
    """Brings the pyramid's local detail into the ViT's tokens.

    Reference: ViT-Adapter, Sec. 3.3 / Eq. 1, arXiv 2205.08534.

    Args:
        embed_dim: width C.
        attn: deformable attention over three levels.
        init_value: start of ``gamma``; 0 leaves the pre-trained ViT's features untouched.
    """

    def __init__(self, embed_dim: int, attn: nn.Module, init_value: float = 0.0) -> None:
        super().__init__()
        self.query_norm = LayerNorm(embed_dim)
        self.feat_norm = LayerNorm(embed_dim)
        self.attn = attn
        self.gamma = nn.Parameter(torch.full((embed_dim,), init_value))

    def forward(self, tokens: Tensor, pyramid: Tensor, geometry: Geometry) -> Tensor:
        """``tokens (B, N, C)`` look at ``pyramid (B, S, C)``; returns ``(B, N, C)``."""
        detail = self.attn(
            self.query_norm(tokens),
            geometry.grid_centers,
            self.feat_norm(pyramid),
            geometry.levels,
        )
        return tokens + self.gamma * detail


class ConvFFN(nn.Module):
    """Feed-forward with a depth-wise convolution on each level of the pyramid.

    Reference: ViT-Adapter, Sec. 3.3 (the convolutional feed-forward of PVTv2).

    Args:
        embed_dim: width C.
        hidden_dim: inner width.
    """

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, pyramid: Tensor, levels: Sequence[Grid]) -> Tensor:
        """``(B, S, C)`` -> ``(B, S, C)``; ``levels`` are the sizes of the S cells."""
        maps = split_levels(self.fc1(pyramid), levels)
        hidden = flatten_levels([self.dwconv(level) for level in maps])
        return self.fc2(self.act(hidden))


class Extractor(nn.Module):
    """Lets the pyramid collect the ViT's features.

    Reference: ViT-Adapter, Sec. 3.3 / Eq. 2 and 3, arXiv 2205.08534.

    Args:
        embed_dim: width C.
        attn: deformable attention over one level.
        ffn: feed-forward, called with ``(pyramid, levels)``; None for the light variant.
        drop_path_rate: stochastic depth of the feed-forward branch alone.
    """

    def __init__(
        self,
        embed_dim: int,
        attn: nn.Module,
        ffn: nn.Module | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_norm = LayerNorm(embed_dim)
        self.feat_norm = LayerNorm(embed_dim)
        self.attn = attn
        self.ffn = ffn
        if ffn is not None:
            self.ffn_norm = LayerNorm(embed_dim)
            self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, pyramid: Tensor, tokens: Tensor, geometry: Geometry) -> Tensor:
        """``pyramid (B, S, C)`` looks at ``tokens (B, N, C)``; returns ``(B, S, C)``."""
        pyramid = pyramid + self.attn(
            self.query_norm(pyramid),
            geometry.level_centers,
            self.feat_norm(tokens),
            (geometry.grid,),
        )
        if self.ffn is None:
            return pyramid
        hidden = self.ffn(self.ffn_norm(pyramid), geometry.levels)
        return pyramid + self.drop_path(hidden)


class InteractionBlock(nn.Module):
    """Injector, a span of ViT blocks, extractors.

    Reference: ViT-Adapter, Fig. 4, arXiv 2205.08534.

    Args:
        span: first and last ViT block, both included.
        injector: see :class:`Injector`.
        extractor: see :class:`Extractor`.
        extra_extractors: more of them, after the first (the last interaction has two).
        recompute_attention: checkpoint the activations of injector and extractors.
    """

    def __init__(
        self,
        span: tuple[int, int],
        injector: nn.Module,
        extractor: nn.Module,
        extra_extractors: Sequence[nn.Module] = (),
        recompute_attention: bool = False,
    ) -> None:
        super().__init__()
        self.span = span
        self.injector = injector
        self.extractor = extractor
        self.extra_extractors = nn.ModuleList(extra_extractors)
        self.recompute_attention = recompute_attention

    def forward(
        self, tokens: Tensor, pyramid: Tensor, vit: PlainViT, geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """One interaction.

        Args:
            tokens: ``(B, num_prefix_tokens + N, C)``; prefix tokens pass the ViT blocks only.
            pyramid: ``(B, S, C)``.
            vit: the trunk whose blocks are run.
            geometry: sizes and centres.

        Returns:
            tokens and pyramid after it, shapes as given.
        """
        prefix, patches = tokens.tensor_split([vit.num_prefix_tokens], dim=1)
        patches = self._exchange(self.injector, patches, pyramid, geometry)
        tokens = torch.cat((prefix, patches), dim=1) if vit.num_prefix_tokens else patches
        tokens = vit.run(tokens, geometry.grid, *self.span)
        patches = tokens[:, vit.num_prefix_tokens :]
        for extractor in (self.extractor, *self.extra_extractors):
            pyramid = self._exchange(extractor, pyramid, patches, geometry)
        return tokens, pyramid

    def _exchange(self, module: nn.Module, *args: Tensor | Geometry) -> Tensor:
        return recompute.run(module, *args, recompute=self.recompute_attention)


def interaction_blocks(
    embed_dim: int,
    spans: Sequence[tuple[int, int]],
    *,
    num_heads: int,
    num_points: int = 4,
    deform_ratio: float = 1.0,
    ffn_ratio: float | None = 0.25,
    injector_init: float = 0.0,
    drop_path_rate: float = 0.0,
    num_extra_extractors: int = 2,
    recompute_attention: bool = False,
) -> list[InteractionBlock]:
    """The interactions of the paper's models.

    Args:
        embed_dim: width C of trunk and adapter.
        spans: first and last ViT block of each interaction, both included.
        num_heads: heads of the deformable attention.
        num_points: points per head and level.
        deform_ratio: width of the attention's values over C.
        ffn_ratio: inner width of the ConvFFN over C; None leaves it out.
        injector_init: start of the injectors' ``gamma`` (ViT 0, BEiT 1e-6).
        drop_path_rate: stochastic depth of the ConvFFNs, the same in all (the trunk's largest).
        num_extra_extractors: extractors added to the last interaction.
        recompute_attention: checkpoint the activations of injectors and extractors.
    """

    def attention(num_levels: int) -> MSDeformAttn:
        return MSDeformAttn(embed_dim, num_levels, num_heads, num_points, deform_ratio)

    def extractor() -> Extractor:
        ffn = ConvFFN(embed_dim, int(embed_dim * ffn_ratio)) if ffn_ratio else None
        return Extractor(embed_dim, attention(1), ffn, drop_path_rate)

    return [
        InteractionBlock(
            (first, last),
            Injector(embed_dim, attention(3), injector_init),
            extractor(),
            [extractor() for _ in range(num_extra_extractors if index == len(spans) - 1 else 0)],
            recompute_attention,
        )
        for index, (first, last) in enumerate(spans)
    ]
