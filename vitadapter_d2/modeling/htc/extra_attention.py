"""Global attention on the coarsest map, before the FPN."""

from typing import Any

from detectron2.modeling import FPN
from timm.layers import DropPath, Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from vitadapter_d2.layers import recompute


class ExtraAttention(nn.Module):
    """A transformer block over a map, and a norm after it.

    Reference: the official ViT-Adapter's HTC++ detectors (Apache-2.0); the paper, arXiv 2205.08534,
    says nothing of it. The block has no position embedding of its own.

    Args:
        dim: channels of the map.
        num_heads: divides ``dim``.
        ffn_ratio: width of the hidden layer over ``dim``.
        drop_path_rate: of both branches, in [0, 1).
        recompute_block: compute the activations again in the backward.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 32,
        ffn_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        recompute_block: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = Mlp(dim, int(dim * ffn_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.final_norm = nn.LayerNorm(dim)
        self.recompute_block = recompute_block
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """Let every place of a map see every other.

        Args:
            feature: ``(B, C, H, W)`` float.

        Returns:
            The same shape.
        """
        tokens = feature.flatten(2).transpose(1, 2)  # (B, H * W, C)
        tokens = recompute.run(self._block, tokens, recompute=self.recompute_block)
        return tokens.transpose(1, 2).reshape(feature.shape)

    def _block(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.ffn(self.norm2(tokens)))
        return self.final_norm(tokens)


class AttentionFPN(FPN):
    """Detectron2's ``FPN`` whose coarsest input passes through a module first.

    Args:
        extra_attention: ``(B, C, H, W)`` -> the same shape.
        **fpn: arguments of ``FPN``.
    """

    def __init__(self, *, extra_attention: nn.Module, **fpn: Any) -> None:
        super().__init__(**fpn)
        self.extra_attention = extra_attention
        # FPN keeps its projections twice, as modules and in this list (coarsest first), which its
        # forward goes through: names stay those of FPN.
        self.lateral_convs[0] = nn.Sequential(extra_attention, self.lateral_convs[0])
