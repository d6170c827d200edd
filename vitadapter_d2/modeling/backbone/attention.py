"""Self-attention objects that a trunk's blocks use instead of their own.

Each takes over the projections of a timm attention, so weights keep timm's names, and computes
through ``scaled_dot_product_attention``.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.beit import Attention as TimmBeitAttention
from timm.models.vision_transformer_relpos import RelPosAttention as TimmRelPosAttention
from timm.models.vision_transformer_sam import Attention as TimmSamAttention
from torch import Tensor, nn

from vitadapter_d2.layers.relative_position import (
    pad_relative_bias,
    relative_bias,
    resize_relative_table,
)
from vitadapter_d2.layers.relative_table import fit_relative_table
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.layers.windows import merge_windows, partition_windows


@dataclass(frozen=True)
class Window:
    """Square attention windows, zero-padded at the right and bottom, without a mask.

    Where the padding enters changes the numbers, and released weights depend on it.

    Attributes:
        size: side of a window, in tokens.
        pad_projected: zeros are put into queries, keys and values (ViT family); otherwise into
            the tokens, so that the projection's bias enters them (BEiT, Uni-Perceiver).
    """

    size: int
    pad_projected: bool

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the window size must be at least 1, got {self.size}")


class SelfAttention(nn.Module):
    """Every token attends to every token of its image, or of its window.

    Args:
        attn: a timm attention with a fused ``qkv`` and a ``proj``.
        window: None for global attention.
    """

    def __init__(
        self,
        attn: Attention | TimmBeitAttention | TimmRelPosAttention | TimmSamAttention,
        window: Window | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.num_heads = attn.num_heads
        self.qkv = attn.qkv
        self.q_norm = getattr(attn, "q_norm", nn.Identity())
        self.k_norm = getattr(attn, "k_norm", nn.Identity())
        self.norm = getattr(attn, "norm", nn.Identity())
        self.gate: nn.Linear | None = getattr(attn, "gate", None)
        self.proj = attn.proj
        self.proj_drop = attn.proj_drop
        self.dropout = attn.attn_drop.p

    def forward(self, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """Attends within one image.

        Args:
            tokens: ``(B, num_prefix_tokens + H * W, C)``.
            grid: ``(H, W)`` of the patch tokens.
            num_prefix_tokens: class and register tokens in front; none with windows.

        Returns:
            As ``tokens``.
        """
        if self.window is None:
            attended = self.attend(self.project(tokens), grid, num_prefix_tokens)
        elif num_prefix_tokens:
            raise ValueError(
                f"windows have no place for prefix tokens, got {num_prefix_tokens}: "
                "use keep_prefix_tokens=False or global attention"
            )
        else:
            attended = self._attend_in_windows(tokens, grid, self.window)
        attended = self.norm(attended)
        if self.gate is not None:
            attended = attended * self.gate(tokens).sigmoid()
        return self.proj_drop(self.proj(attended))

    def _attend_in_windows(self, tokens: Tensor, grid: Grid, window: Window) -> Tensor:
        if window.pad_projected:
            qkv = partition_windows(self.project(tokens), grid, window.size)
        else:
            qkv = self.project(partition_windows(tokens, grid, window.size))
        attended = self.attend(qkv, (window.size, window.size), 0)
        return merge_windows(attended, grid, window.size)

    def project(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values, ``(B, N, C)`` -> ``(B, N, 3 * C)``."""
        return self.qkv(tokens)

    def attend(self, qkv: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """``(B, N, 3 * C)`` -> ``(B, N, C)``; the grid is that of the image or window."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            self.q_norm(query),
            self.k_norm(key),
            value,
            attn_mask=self.bias(grid, num_prefix_tokens, query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, M, N, D)
        return attended.transpose(1, 2).flatten(2)

    def bias(self, grid: Grid, num_prefix_tokens: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to the logits, ``(M, N, N)``, or None."""
        return None


class LearnedBiasAttention(SelfAttention):
    """Attention with a learned bias that depends on the grid alone; made by subclasses.

    Attributes:
        kept_elements: largest bias that is kept from call to call while nothing is learned; at
            16 heads that of an image of 512 pixels, 67 MB in float32. At 896 the blocks of a
            BEiT-L would hold 15 GB.
    """

    kept_elements = 2**25
    _cached: tuple[tuple[object, ...], list[Tensor], Tensor] | None = None

    @abstractmethod
    def make_bias(self, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """The bias of every query and key, ``(M, N, N)``."""

    @abstractmethod
    def bias_parameters(self) -> Iterable[Tensor]:
        """What the bias is made from."""

    def bias(self, grid: Grid, num_prefix_tokens: int, dtype: torch.dtype) -> Tensor | None:
        """See :meth:`SelfAttention.bias`; a small one is kept while nothing is learned."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._cached = None
            return self.make_bias(grid, num_prefix_tokens).to(dtype)
        sources = list(self.bias_parameters())
        if any(source.is_inference() for source in sources):  # these have no version
            return self.make_bias(grid, num_prefix_tokens).to(dtype)
        versions = tuple((source.device, source._version) for source in sources)
        key = (grid, num_prefix_tokens, dtype, versions)
        # Read once: between two reads another thread may put its own image's bias there.
        cached = self._cached
        # Versions alone do not tell one parameter from another that took its place.
        if (
            cached is not None
            and cached[0] == key
            and all(old is new for old, new in zip(cached[1], sources, strict=True))
        ):
            return cached[2]
        self._cached = cached = None  # before a new one is made, so that two are never held
        bias = self.make_bias(grid, num_prefix_tokens).to(dtype)
        if bias.numel() <= self.kept_elements:
            self._cached = key, sources, bias
        return bias

    def train(self, mode: bool = True) -> "LearnedBiasAttention":
        """See ``nn.Module.train``; a change through ``.data`` has no version, so start anew."""
        self._cached = None
        super().train(mode)
        return self


class RelativeBiasAttention(LearnedBiasAttention):
    """Attention of BEiT: a learned bias for each relative position, queries and values biased.

    Reference: BEiT, arXiv 2106.08254. Departure: a grid other than that of the stored table gets
    the table resized (bicubic); the official code is fixed to one size.

    Args:
        attn: timm's attention of a BEiT with a relative-position table of its own.
        table_grid: ``(H, W)`` that the table is stored for; timm's is resized to it, as the
            official loaders resize the original file's.
        has_class_token: keep the three entries that concern the class token.
        window: None for global attention.
    """

    def __init__(
        self,
        attn: TimmBeitAttention,
        table_grid: Grid,
        has_class_token: bool,
        window: Window | None = None,
    ) -> None:
        super().__init__(attn, window)
        self.q_bias = attn.q_bias
        self.v_bias = attn.v_bias
        self.table_grid = table_grid
        self.num_extra = 3 if has_class_token else 0
        table = attn.relative_position_bias_table.detach()
        height, width = attn.window_size
        patches = table[:-3].unflatten(0, (2 * height - 1, 2 * width - 1))
        resized = fit_relative_table(patches, table_grid).flatten(0, 1)
        extra = table[len(table) - self.num_extra :]
        self.relative_position_bias_table = nn.Parameter(torch.cat((resized, extra)))

    def project(self, tokens: Tensor) -> Tensor:
        """See :meth:`SelfAttention.project`; keys have no bias."""
        if self.q_bias is None:
            return self.qkv(tokens)
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(tokens, self.qkv.weight, bias)

    def bias_parameters(self) -> Iterable[Tensor]:
        """See :meth:`LearnedBiasAttention.bias_parameters`."""
        return (self.relative_position_bias_table,)

    def make_bias(self, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """See :meth:`LearnedBiasAttention.make_bias`."""
        height, width = self.table_grid
        rows = self.relative_position_bias_table
        patches = rows[: len(rows) - self.num_extra]
        table = patches.unflatten(0, (2 * height - 1, 2 * width - 1))
        bias = relative_bias(resize_relative_table(table, grid), grid)
        return pad_relative_bias(bias, rows[-3:]) if num_prefix_tokens else bias


class DecomposedBiasAttention(SelfAttention):
    """Attention of ViTDet and SAM: a bias from each query and its key's row, and key's column.

    Reference: MViTv2, arXiv 2112.01526, Eq. 4; ViTDet, arXiv 2203.16527. The bias depends on the
    query, so as a matrix it would be ``(B, M, N, N)``. It is a sum over rows and columns, so it is
    computed by the attention kernel instead: queries are extended by their bias towards each row
    and column, keys by the one-hot row and column they lie in.

    Args:
        attn: timm's attention of a SAM image encoder, with relative positions.
        window: None for global attention.
    """

    def __init__(self, attn: TimmSamAttention, window: Window | None = None) -> None:
        super().__init__(attn, window)
        self.rel_pos_h = attn.rel_pos_h
        self.rel_pos_w = attn.rel_pos_w

    def attend(self, qkv: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """See :meth:`SelfAttention.attend`; there are no prefix tokens."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query), self.k_norm(key)
        height, width = grid
        head_dim = query.shape[-1]
        placed = query.unflatten(2, grid)  # (B, M, H, W, D)
        rows = torch.einsum("bmhwd,hkd->bmhwk", placed, _axis_offsets(self.rel_pos_h, height))
        columns = torch.einsum("bmhwd,wkd->bmhwk", placed, _axis_offsets(self.rel_pos_w, width))
        bias = torch.cat((rows, columns), dim=-1).flatten(2, 3)  # (B, M, N, H + W)
        cell = torch.arange(height * width, device=qkv.device)
        lies_in = torch.cat(
            (F.one_hot(cell // width, height), F.one_hot(cell % width, width)), dim=1
        ).to(key.dtype)  # (N, H + W)
        # Kernels want one width for all three, and a multiple of 8.
        spare = -(head_dim + height + width) % 8
        attended = F.scaled_dot_product_attention(
            F.pad(torch.cat((query * head_dim**-0.5, bias.to(query.dtype)), dim=-1), (0, spare)),
            F.pad(torch.cat((key, lies_in.expand(*key.shape[:3], -1)), dim=-1), (0, spare)),
            F.pad(value, (0, height + width + spare)),
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )[..., :head_dim]
        return attended.transpose(1, 2).flatten(2)


def _axis_offsets(table: Tensor, size: int) -> Tensor:
    """``(2 h - 1, D)`` by offset -> ``(size, size, D)`` by query and key; linear resize."""
    count = 2 * size - 1
    if len(table) != count:
        resized = F.interpolate(table.T[None].float(), size=count, mode="linear")
        table = resized[0].T.to(table.dtype)
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]
