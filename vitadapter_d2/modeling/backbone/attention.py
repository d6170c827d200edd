"""Self-attention objects that a trunk's blocks use instead of their own.

Each takes over the projections of a timm attention, so weights keep timm's names, and computes
through ``scaled_dot_product_attention``: no ``N x N`` matrix is built here.
"""

import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.layers.windows import merge_windows, partition_windows


class GlobalAttention(nn.Module):
    """Every token attends to every token.

    Args:
        attn: a timm attention with a fused ``qkv`` and a ``proj`` (``timm.layers.Attention``).
    """

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        if getattr(attn, "gate", None) is not None:
            raise ValueError("a gated timm attention is not supported; use a model without gates")
        self.num_heads = attn.num_heads
        self.qkv = attn.qkv
        self.q_norm = attn.q_norm
        self.k_norm = attn.k_norm
        self.norm = getattr(attn, "norm", nn.Identity())
        self.proj = attn.proj
        self.proj_drop = attn.proj_drop
        self.dropout = attn.attn_drop.p

    def forward(self, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """Attends within one image.

        Args:
            tokens: ``(B, num_prefix_tokens + H * W, C)``.
            grid: ``(H, W)`` of the patch tokens.
            num_prefix_tokens: class and register tokens in front.

        Returns:
            As ``tokens``.
        """
        return self.project(self.attend(self.qkv(tokens)))

    def attend(self, qkv: Tensor) -> Tensor:
        """``(B, N, 3 * C)`` queries, keys and values -> ``(B, N, C)``."""
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            self.q_norm(query),
            self.k_norm(key),
            value,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (B, M, N, D)
        return attended.transpose(1, 2).flatten(2)

    def project(self, attended: Tensor) -> Tensor:
        """The output projection, ``(B, N, C)`` -> ``(B, N, C)``."""
        return self.proj_drop(self.proj(self.norm(attended)))


class WindowAttention(GlobalAttention):
    """Tokens attend within square windows, zero-padded at the right and bottom, without a mask.

    Where the padding enters changes the numbers, and released weights depend on it.

    Args:
        attn: as in :class:`GlobalAttention`.
        window_size: side of a window, in tokens.
        pad_projected: zeros are put into queries, keys and values (ViT family); otherwise into
            the tokens, so that the projection's bias enters them (BEiT, Uni-Perceiver).
    """

    def __init__(self, attn: Attention, window_size: int, pad_projected: bool) -> None:
        super().__init__(attn)
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        self.window_size = window_size
        self.pad_projected = pad_projected

    def forward(self, tokens: Tensor, grid: Grid, num_prefix_tokens: int) -> Tensor:
        """As :meth:`GlobalAttention.forward`; ``num_prefix_tokens`` must be 0."""
        if num_prefix_tokens:
            raise ValueError(
                f"windows have no place for prefix tokens, got {num_prefix_tokens}: "
                "use keep_prefix_tokens=False or global attention"
            )
        if self.pad_projected:
            qkv = partition_windows(self.qkv(tokens), grid, self.window_size)
        else:
            qkv = self.qkv(partition_windows(tokens, grid, self.window_size))
        return self.project(merge_windows(self.attend(qkv), grid, self.window_size))
