"""Transformer decoder of Mask2Former: queries that attend inside their own predicted masks.

Module names are those of facebookresearch/Mask2Former (MIT licence), so that its weights load.
"""

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from vitadapter_d2.layers.mlp import MLP
from vitadapter_d2.layers.position_encoding import sine_position_encoding
from vitadapter_d2.modeling.mask2former.structures import MaskPrediction

NUM_LEVELS = 3  # maps of the pixel decoder that the layers read in turn


class MultiheadAttention(nn.Module):
    """Multi-head attention with the parameter names of ``nn.MultiheadAttention``.

    That class would copy a mask for every head and turn it into floats; here one mask is broadcast
    over the heads inside ``scaled_dot_product_attention``.

    Args:
        embed_dim: width C.
        num_heads: heads; divides ``embed_dim``.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim {embed_dim}, got {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Attends from queries to keys.

        Args:
            query: ``(B, Q, C)``.
            key: ``(B, S, C)``.
            value: ``(B, S, C)``.
            allowed: ``(B, Q, S)`` bool, True where a query may look, the same for all heads.

        Returns:
            ``(B, Q, C)``.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )  # (B, M, Q or S, D)
        mask = None if allowed is None else allowed[:, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class CrossAttentionLayer(nn.Module):
    """Attention of the queries to a map inside their masks, with residual and norm.

    Args:
        embed_dim: width C.
        num_heads: attention heads.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = MultiheadAttention(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self, queries: Tensor, positions: Tensor, key: Tensor, value: Tensor, allowed: Tensor
    ) -> Tensor:
        """``(B, Q, C)`` queries, with ``(Q, C)`` positions added, to ``(B, Q, C)``."""
        attended = self.multihead_attn(queries + positions, key, value, allowed)
        return self.norm(queries + attended)


class SelfAttentionLayer(nn.Module):
    """Attention among the queries, with residual and norm.

    Args:
        embed_dim: width C.
        num_heads: attention heads.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, queries: Tensor, positions: Tensor) -> Tensor:
        """``(B, Q, C)`` queries, with ``(Q, C)`` positions added, to ``(B, Q, C)``."""
        placed = queries + positions
        return self.norm(queries + self.self_attn(placed, placed, queries))


class FFNLayer(nn.Module):
    """Feed-forward network with residual and norm.

    Args:
        embed_dim: width C.
        feedforward_dim: hidden width.
    """

    def __init__(self, embed_dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor) -> Tensor:
        """``(B, Q, C)`` to ``(B, Q, C)``."""
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries))))


class MaskedTransformerDecoder(nn.Module):
    """Refines learned queries on the pixel decoder's maps and predicts a class and mask for each.

    Reference: Mask2Former, Sec. 3.2, arXiv 2112.01527. Departures: no dropout (0 in every released
    configuration), post-norm only.

    Args:
        in_channels: channels of the three maps.
        embed_dim: width C of the queries, a multiple of 4.
        mask_dim: channels of the mask features.
        num_classes: classes K, without "no object".
        num_queries: queries Q.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward networks.
        num_layers: decoder layers, 9 in the paper; one prediction more is supervised.
        enforce_input_proj: project the maps even if their width is ``embed_dim``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int = 100,
        in_channels: int = 256,
        embed_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_layers: int = 9,
        enforce_input_proj: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(embed_dim, num_heads) for _ in range(num_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(embed_dim, num_heads) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(embed_dim, feedforward_dim) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.query_feat = nn.Embedding(num_queries, embed_dim)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, embed_dim)
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)
        self.mask_embed = MLP(embed_dim, embed_dim, mask_dim, num_layers=3)
        needs_projection = enforce_input_proj or in_channels != embed_dim
        self.input_proj = nn.ModuleList(
            nn.Conv2d(in_channels, embed_dim, 1) if needs_projection else nn.Identity()
            for _ in range(NUM_LEVELS)
        )
        if needs_projection:
            for projection in self.input_proj:
                c2_xavier_fill(projection)

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> list[MaskPrediction]:
        """Predicts from the raw queries, then again after every layer.

        Args:
            maps: three maps ``(B, in_channels, H / s, W / s)``, strides 32, 16, 8.
            mask_features: ``(B, mask_dim, H / 4, W / 4)``.

        Returns:
            ``num_layers + 1`` predictions, the final one last.
        """
        memory = [self._memory(level, index) for index, level in enumerate(maps)]
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        positions = self.query_embed.weight
        predictions = [self._predict(queries, mask_features)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, ffn) in enumerate(layers):
            level = index % NUM_LEVELS
            height, width = maps[level].shape[-2:]
            allowed = attention_mask(predictions[-1].pred_masks, (height, width))
            queries = cross_attention(queries, positions, *memory[level], allowed)
            queries = ffn(self_attention(queries, positions))
            predictions.append(self._predict(queries, mask_features))
        return predictions

    def _memory(self, level: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Key and value ``(B, S, C)`` of one map; only the key knows positions."""
        value = self.input_proj[index](level).flatten(2).transpose(1, 2)
        value = value + self.level_embed.weight[index]
        shape = (level.shape[2], level.shape[3])
        encoding = sine_position_encoding(shape, value.shape[-1], level.device)
        return value + encoding.to(value.dtype), value

    def _predict(self, queries: Tensor, mask_features: Tensor) -> MaskPrediction:
        normed = self.decoder_norm(queries)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(normed), mask_features)
        return MaskPrediction(self.class_embed(normed), masks)


@torch.no_grad()
def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each query may look: inside its mask, or everywhere if the mask is empty.

    Reference: Mask2Former, Eq. 2 and 3, arXiv 2112.01527.

    Args:
        mask_logits: ``(B, Q, H / 4, W / 4)``. They are resized as logits; probability one half
            counts as inside.
        size: ``(h, w)`` of the map that is attended to.

    Returns:
        ``(B, Q, h * w)`` bool, True where attention is allowed; no row is all False.
    """
    resized = F.interpolate(mask_logits, size, mode="bilinear").flatten(2)
    forbidden = resized < 0
    return ~(forbidden & ~forbidden.all(-1, keepdim=True))
