"""Self-attention objects that a trunk's blocks use instead of their own.

Each takes over the projections of a timm attention, so weights keep timm's names, and computes
through ``scaled_dot_product_attention``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.beit import Attention as TimmBeitAttention
from torch import Tensor, nn

from vitadapter_d2.layers.relative_position import (
    pad_relative_bias,
    relative_bias,
    resize_relative_table,
)
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
        attn: a timm attention with a fused ``qkv`` and a ``proj`` (``timm.layers.Attention``).
        window: None for global attention.
    """

    def __init__(self, attn: Attention | TimmBeitAttention, window: Window | None = None) -> None:
        super().__init__()
        if getattr(attn, "gate", None) is not None:
            raise ValueError("a gated timm attention is not supported; use a model without gates")
        self.window = window
        self.num_heads = attn.num_heads
        self.qkv = attn.qkv
        self.q_norm = getattr(attn, "q_norm", nn.Identity())
        self.k_norm = getattr(attn, "k_norm", nn.Identity())
        self.norm = getattr(attn, "norm", nn.Identity())
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
        return self.proj_drop(self.proj(self.norm(attended)))

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


class RelativeBiasAttention(SelfAttention):
    """Attention of BEiT: a learned bias for each relative position, queries and values biased.

    Reference: BEiT, arXiv 2106.08254. Departure: a grid other than that of the stored table gets
    the table resized (bicubic); the official code is fixed to one size.

    Args:
        attn: timm's attention of a BEiT with a relative-position table of its own.
        table_grid: ``(H, W)`` that the table is stored for; another one than timm's starts it
            at zero.
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
        table = attn.relative_position_bias_table
        size = (2 * table_grid[0] - 1) * (2 * table_grid[1] - 1) + self.num_extra
        self.relative_position_bias_table = (
            table if len(table) == size else nn.Parameter(table.new_zeros(size, self.num_heads))
        )
        self._cached: tuple[tuple[object, ...], Tensor] | None = None

    def project(self, tokens: Tensor) -> Tensor:
        """See :meth:`SelfAttention.project`; keys have no bias."""
        if self.q_bias is None:
            return self.qkv(tokens)
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(tokens, self.qkv.weight, bias)

    def bias(self, grid: Grid, num_prefix_tokens: int, dtype: torch.dtype) -> Tensor | None:
        """See :meth:`SelfAttention.bias`; kept from call to call while nothing is learned."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._cached = None
            return self._bias(grid, num_prefix_tokens).to(dtype)
        table = self.relative_position_bias_table
        key = (grid, num_prefix_tokens, dtype, table.device, table._version)
        if self._cached is None or self._cached[0] != key:
            self._cached = key, self._bias(grid, num_prefix_tokens).to(dtype)
        return self._cached[1]

    def _bias(self, grid: Grid, num_prefix_tokens: int) -> Tensor:
        height, width = self.table_grid
        rows = self.relative_position_bias_table
        patches = rows[: len(rows) - self.num_extra]
        table = patches.unflatten(0, (2 * height - 1, 2 * width - 1))
        bias = relative_bias(resize_relative_table(table, grid), grid)
        return pad_relative_bias(bias, rows[-3:]) if num_prefix_tokens else bias
