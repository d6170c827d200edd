"""The semantic branch, which also gives context to boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.layers import Conv2d
from fvcore.nn import weight_init
from torch import Tensor, nn

from vitadapter_d2.layers.losses import semantic_cross_entropy


@dataclass(frozen=True)
class SemanticOutput:
    """Output of the semantic branch.

    Attributes:
        logits: ``(B, K, h, w)`` float.
        context: ``(B, C, h, w)`` float, what boxes and masks get.
    """

    logits: Tensor
    context: Tensor


class FusedSemanticHead(nn.Module):
    """Sums all levels of a pyramid at the size of one of them and classifies its pixels.

    Reference: Hybrid Task Cascade, Sec. 3.2, arXiv 1901.07518. The released weights want
    ``align_corners=True`` in the resizing and a loss averaged over all pixels.

    Args:
        num_levels: of the pyramid.
        num_classes: K.
        channels: of the pyramid and of the head.
        fusion_level: place of the level whose size counts.
        stride: of that level, in image pixels.
        num_convs: 3x3 convolutions after the sum.
        ignore_value: label of pixels that cost nothing.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        num_levels: int = 5,
        num_classes: int = 183,
        channels: int = 256,
        fusion_level: int = 1,
        stride: int = 8,
        num_convs: int = 4,
        ignore_value: int = 255,
        loss_weight: float = 0.2,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fusion_level = fusion_level
        self.stride = stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.lateral_convs = nn.ModuleList(_conv(channels, 1) for _ in range(num_levels))
        self.convs = nn.Sequential(*(_conv(channels, 3) for _ in range(num_convs)))
        self.conv_embedding = _conv(channels, 1)
        self.conv_logits = Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.conv_logits.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_logits.bias)

    def forward(self, features: Sequence[Tensor]) -> SemanticOutput:
        """Classify pixels at the size of the fusion level.

        Args:
            features: ``(B, C, h_i, w_i)`` float for each level, finest first.

        Returns:
            Logits and context, both of the size of the fusion level.
        """
        size = features[self.fusion_level].shape[-2:]
        fused = sum(
            conv(_resized(feature, size))
            for conv, feature in zip(self.lateral_convs, features, strict=True)
        )
        hidden = self.convs(fused)
        return SemanticOutput(self.conv_logits(hidden), self.conv_embedding(hidden))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross entropy.

        Args:
            logits: ``(B, K, h, w)`` float.
            labels: ``(B, h * stride, w * stride)`` int64 in [0, K) or ``ignore_value``; of each
                cell the upper left pixel counts, as where OpenCV resizes to the nearest.

        Returns:
            Scalar.
        """
        labels = labels[:, :: self.stride, :: self.stride]
        return self.loss_weight * semantic_cross_entropy(logits.float(), labels, self.ignore_value)


def _conv(channels: int, kernel_size: int) -> Conv2d:
    conv = Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, activation=F.relu)
    weight_init.c2_msra_fill(conv)
    return conv


def _resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    if feature.shape[-2:] == size:
        return feature
    return F.interpolate(feature, size=tuple(size), mode="bilinear", align_corners=True)
