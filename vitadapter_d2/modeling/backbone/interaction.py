"""The exchange between the ViT's tokens and the spatial prior's pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from vitadapter_d2.layers import recompute
from vitadapter_d2.layers.levels import flatten_levels, split_levels
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.cross_attention import AttentionBuilder, Deformable, Levels
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT


@dataclass(frozen=True)
class Geometry:
    """What all interactions of one forward share.

    Attributes:
        tokens: the ViT's patch tokens, N of them.
        pyramid: strides 8, 16 and 32, S cells.
    """

    tokens: Levels
    pyramid: Levels

    @classmethod
    def of(cls, grid: Grid, levels: Sequence[Grid], device: torch.device) -> "Geometry":
        """Computes the cell centres."""
        return cls(Levels.of([grid], device), Levels.of(levels, device))

    @property
    def grid(self) -> Grid:
        """``(H, W)`` of the ViT's patch tokens."""
        return self.tokens.shapes[0]


class Injector(nn.Module):
    """Brings the pyramid's local detail into the ViT's tokens.

    Reference: ViT-Adapter, Sec. 3.3 / Eq. 1, arXiv 2205.08534.

    Args:
        embed_dim: width C.
        attn: attention of the tokens over three levels, see ``cross_attention.py``.
        init_value: start of ``gamma``; 0 leaves the pre-trained ViT's features untouched.
        norm_eps: of the layer norms.
    """

    def __init__(
        self, embed_dim: int, attn: nn.Module, init_value: float = 0.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.feat_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = attn
        self.gamma = nn.Parameter(torch.full((embed_dim,), init_value))

    def forward(self, tokens: Tensor, pyramid: Tensor, geometry: Geometry) -> Tensor:
        """``tokens (B, N, C)`` look at ``pyramid (B, S, C)``; returns ``(B, N, C)``."""
        detail = self.attn(
            self.query_norm(tokens), geometry.tokens, self.feat_norm(pyramid), geometry.pyramid
        )
        return tokens + self.gamma * detail


class AddInjector(nn.Module):
    """Adds the pyramid's levels, resized to the ViT's grid, to its tokens.

    Reference: ViT-Adapter, Variant 1 of the component ablation, arXiv 2205.08534. It has no
    parameters; the tokens of a pre-trained ViT change from the first step on.
    """

    def forward(self, tokens: Tensor, pyramid: Tensor, geometry: Geometry) -> Tensor:
        """``tokens (B, N, C)`` plus ``pyramid (B, S, C)``, resized; returns ``(B, N, C)``."""
        resized = [
            F.interpolate(level, size=geometry.grid, mode="bilinear", align_corners=False)
            for level in split_levels(pyramid, geometry.pyramid.shapes)
        ]
        return tokens + flatten_levels([torch.stack(resized).sum(dim=0)])


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
        attn: attention of the pyramid over one level, see ``cross_attention.py``.
        ffn: feed-forward, called with ``(pyramid, levels)``; None for the light variant.
        drop_path_rate: stochastic depth of the feed-forward branch alone.
        norm_eps: of the layer norms.
    """

    def __init__(
        self,
        embed_dim: int,
        attn: nn.Module,
        ffn: nn.Module | None = None,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.feat_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = attn
        self.ffn = ffn
        if ffn is not None:
            self.ffn_norm = nn.LayerNorm(embed_dim, eps=norm_eps)
            self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, pyramid: Tensor, tokens: Tensor, geometry: Geometry) -> Tensor:
        """``pyramid (B, S, C)`` looks at ``tokens (B, N, C)``; returns ``(B, S, C)``."""
        pyramid = pyramid + self.attn(
            self.query_norm(pyramid), geometry.pyramid, self.feat_norm(tokens), geometry.tokens
        )
        if self.ffn is None:
            return pyramid
        hidden = self.ffn(self.ffn_norm(pyramid), geometry.pyramid.shapes)
        return pyramid + self.drop_path(hidden)


class InteractionBlock(nn.Module):
    """Injector, a span of ViT blocks, extractors.

    Reference: ViT-Adapter, Fig. 4, arXiv 2205.08534.

    Args:
        span: first and last ViT block, both included.
        injector: :class:`Injector`, :class:`AddInjector` or the like; None leaves the ViT alone.
        extractors: :class:`Extractor` or the like, one after the other (the paper's last
            interaction has three); none leaves the pyramid alone.
        recompute_attention: checkpoint the activations of injector and extractors.
    """

    def __init__(
        self,
        span: tuple[int, int],
        injector: nn.Module | None = None,
        extractors: Sequence[nn.Module] = (),
        recompute_attention: bool = False,
    ) -> None:
        super().__init__()
        self.span = (span[0], span[1])
        self.injector = injector
        # Two names, as in the released weights.
        self.extractor = extractors[0] if extractors else None
        self.extra_extractors = nn.ModuleList(extractors[1:])
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
        if self.injector is not None:
            prefix, patches = tokens.tensor_split([vit.num_prefix_tokens], dim=1)
            patches = self._exchange(self.injector, patches, pyramid, geometry)
            tokens = torch.cat((prefix, patches), dim=1) if vit.num_prefix_tokens else patches
        tokens = vit.run(tokens, geometry.grid, *self.span)
        patches = tokens[:, vit.num_prefix_tokens :]
        for extractor in (self.extractor, *self.extra_extractors):
            if extractor is not None:
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
    attention: AttentionBuilder | None = None,
    ffn_ratio: float | None = 0.25,
    injector_init: float = 0.0,
    drop_path_rate: float = 0.0,
    num_extra_extractors: int = 2,
    norm_eps: float = 1e-6,
    recompute_attention: bool = False,
) -> list[InteractionBlock]:
    """The interactions of the paper's models.

    The light variant has one span over all blocks, ``ffn_ratio=None`` and
    ``num_extra_extractors=0`` (and its ``ViTAdapter`` has ``added_stages=None``). What has no
    injector or no extractor (the component ablation) is a list of :class:`InteractionBlock`
    instead.

    Args:
        embed_dim: width C of trunk and adapter.
        spans: first and last ViT block of each interaction, both included.
        num_heads: heads of the attention.
        num_points: points per head and level of the deformable attention.
        deform_ratio: width of its values over C.
        attention: builds another one, see ``cross_attention.py``; the two above have no effect.
        ffn_ratio: inner width of the ConvFFN over C; None leaves it out.
        injector_init: start of the injectors' ``gamma`` (ViT 0, BEiT 1e-6).
        drop_path_rate: stochastic depth of the ConvFFNs, the same in all (the trunk's largest).
        num_extra_extractors: extractors added to the last interaction.
        norm_eps: of the layer norms (Uni-Perceiver 1e-5).
        recompute_attention: checkpoint the activations of injectors and extractors.
    """
    build = attention or Deformable(num_points, deform_ratio)

    def extractor() -> Extractor:
        ffn = ConvFFN(embed_dim, int(embed_dim * ffn_ratio)) if ffn_ratio else None
        attn = build(embed_dim, num_heads, 1)
        return Extractor(embed_dim, attn, ffn, drop_path_rate, norm_eps)

    return [
        InteractionBlock(
            (first, last),
            Injector(embed_dim, build(embed_dim, num_heads, 3), injector_init, norm_eps),
            [extractor() for _ in range(1 + num_extra_extractors * (index == len(spans) - 1))],
            recompute_attention,
        )
        for index, (first, last) in enumerate(spans)
    ]
