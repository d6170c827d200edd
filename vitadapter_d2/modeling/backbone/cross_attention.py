"""The attention of injectors and extractors, as objects that can take each other's place.

A builder such as ``Deformable()`` or ``CrossShaped()`` makes them; every one is called
``attn(query, queries, value, values)``, with the sizes of both sides as :class:`Levels`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitadapter_d2.layers.levels import Shapes, level_centers
from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.layers.regions import Regions, line_regions
from vitadapter_d2.layers.resample import Grid

# (embed_dim, num_heads, number of levels that are looked at)
AttentionBuilder = Callable[[int, int, int], nn.Module]


@dataclass(frozen=True)
class Levels:
    """Sizes and cell centres of one side of an exchange.

    Attributes:
        shapes: ``(H, W)`` of every level; one for the ViT's tokens.
        centers: ``(1, N, 1, 2)``, see ``level_centers``.
    """

    shapes: tuple[Grid, ...]
    centers: Tensor

    @classmethod
    def of(cls, shapes: Shapes, device: torch.device) -> "Levels":
        """Computes the centres."""
        return cls(tuple(shapes), level_centers(shapes, device))


class DeformableAttention(MSDeformAttn):
    """Deformable attention that takes both sides of an exchange; the paper's choice.

    Reference: ViT-Adapter, Sec. 3.3, arXiv 2205.08534. Arguments and parameter names are those
    of :class:`MSDeformAttn`.
    """

    # A subclass, not a wrapper: released weights have the parameters right below ``attn``.
    def forward(  # type: ignore[override]
        self, query: Tensor, queries: Levels, value: Tensor, values: Levels
    ) -> Tensor:
        """``query (B, Q, C)`` samples ``value (B, S, C)``; returns ``(B, Q, C)``."""
        return super().forward(query, queries.centers, value, values.shapes)


class CrossAttention(nn.Module):
    """Multi-head attention from every query to all values, or to those in its region.

    Args:
        embed_dim: width C of queries, values and output.
        num_heads: attention heads M; divides C.
        pattern: who attends to whom.
    """

    def __init__(self, embed_dim: int, num_heads: int, pattern: "Pattern") -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim {embed_dim} must be a multiple of num_heads, got {num_heads}"
            )
        self.num_heads = num_heads
        self.pattern = pattern
        self.query_proj = nn.Linear(embed_dim, embed_dim)
        self.key_proj = nn.Linear(embed_dim, embed_dim)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query: Tensor, queries: Levels, value: Tensor, values: Levels) -> Tensor:
        """Attends.

        Args:
            query: ``(B, Q, C)`` float, levels concatenated as by ``flatten_levels``.
            queries: their sizes.
            value: ``(B, S, C)`` float, likewise.
            values: their sizes.

        Returns:
            ``(B, Q, C)``.
        """
        attended = self.pattern.attend(
            self._split_heads(self.query_proj(query)),
            self._split_heads(self.key_proj(value)),
            self._split_heads(self.value_proj(value)),
            queries.shapes,
            values.shapes,
        )
        return self.output_proj(attended.flatten(2))

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, -1))  # (B, N, M, D)


class Pattern(ABC):
    """Who attends to whom in a :class:`CrossAttention`; also its builder."""

    def __call__(self, embed_dim: int, num_heads: int, num_levels: int) -> nn.Module:
        """An attention with this pattern; it takes any number of levels."""
        return CrossAttention(embed_dim, num_heads, self)

    @abstractmethod
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Shapes, values: Shapes
    ) -> Tensor:
        """``query (B, Q, M, D)`` to ``key, value (B, S, M, D)``; returns ``(B, Q, M, D)``."""


@dataclass(frozen=True)
class Deformable:
    """Builds the paper's attention.

    Attributes:
        num_points: points per head and level.
        value_ratio: width of the values over ``embed_dim``.
    """

    num_points: int = 4
    value_ratio: float = 1.0

    def __call__(self, embed_dim: int, num_heads: int, num_levels: int) -> nn.Module:
        """An attention that samples ``num_levels`` levels."""
        return DeformableAttention(
            embed_dim, num_levels, num_heads, self.num_points, self.value_ratio
        )


@dataclass(frozen=True)
class Global(Pattern):
    """Every query attends to every value; quadratic in the number of pixels.

    Reference: ViT-Adapter, the ablation of attention types, arXiv 2205.08534.
    """

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Shapes, values: Shapes
    ) -> Tensor:
        """See :meth:`Pattern.attend`."""
        return _attend(query, key, value)


class Bands(Pattern):
    """Half of the heads attend within groups of rows, the other half within groups of columns.

    The image is cut into as many bands as the coarsest level of both sides has rows (or columns),
    and every level's rows (columns) belong to the band that their centre lies in. So a group is
    the same part of the image on every level of queries and values, whatever their sizes, and no
    query is without values. Subclasses say which bands make a group.
    """

    @abstractmethod
    def group_bands(self, num_bands: int) -> list[int]:
        """The group of every band; groups are numbered from 0, none is empty."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Shapes, values: Shapes
    ) -> Tensor:
        """See :meth:`Pattern.attend`."""
        if query.shape[2] % 2:
            raise ValueError(f"the number of heads must be even, got {query.shape[2]}")
        halves = []
        for axis, heads in enumerate(
            zip(query.chunk(2, dim=2), key.chunk(2, dim=2), value.chunk(2, dim=2), strict=True)
        ):
            num_bands = min(shape[axis] for shape in (*queries, *values))
            groups = self.group_bands(num_bands)
            query_regions = line_regions(queries, axis, groups, query.device)
            value_regions = line_regions(values, axis, groups, query.device)
            halves.append(_attend_in_regions(*heads, query_regions, value_regions))
        return torch.cat(halves, dim=2)


@dataclass(frozen=True)
class CrossShaped(Bands):
    """Horizontal and vertical stripes: neighbouring rows, neighbouring columns.

    Reference: CSWin Transformer, arXiv 2107.00652, in the ablation of ViT-Adapter, arXiv
    2205.08534. Neither says how queries and values of several levels share stripes: see
    :class:`Bands`. With a width of 1 the multiply-adds are those the ablation prints.

    Attributes:
        stripe_width: bands per stripe, i.e. rows or columns of the coarsest level (stride 32).
    """

    stripe_width: int = 1

    def __post_init__(self) -> None:
        _check_positive("stripe_width", self.stripe_width)

    def group_bands(self, num_bands: int) -> list[int]:
        """See :meth:`Bands.group_bands`."""
        return [band // self.stripe_width for band in range(num_bands)]


@dataclass(frozen=True)
class PaleShaped(Bands):
    """Pales: rows, and columns, at equal distances over the whole image.

    Reference: Pale Transformer, arXiv 2112.14000 (its parallel form), in the ablation of
    ViT-Adapter, arXiv 2205.08534. The size used there is not known; with one line a pale is a
    cross of one row and one column, as :class:`CrossShaped` with stripes of one.

    Attributes:
        lines: rows, and columns, of the coarsest level (stride 32) in one pale.
    """

    lines: int = 2

    def __post_init__(self) -> None:
        _check_positive("lines", self.lines)

    def group_bands(self, num_bands: int) -> list[int]:
        """See :meth:`Bands.group_bands`."""
        num_pales = -(-num_bands // self.lines)
        return [band % num_pales for band in range(num_bands)]


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(B, N, M, D)`` each; the mask broadcasts to ``(B, M, Q, S)``."""
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return attended.transpose(1, 2)


def _attend_in_regions(
    query: Tensor, key: Tensor, value: Tensor, queries: Regions, values: Regions
) -> Tensor:
    """``(B, N, M, D)`` each; the regions of both sides correspond."""
    batch = len(query)
    mask = None
    if values.is_padded:
        # One row for all queries of a region; the kernels broadcast it.
        mask = values.is_token[None].expand(batch, -1, -1).flatten(0, 1)[:, None, None]
    attended = _attend(queries.gather(query), values.gather(key), values.gather(value), mask)
    return queries.scatter(attended, batch)
