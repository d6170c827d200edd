"""What the semantic heads share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm


class SemanticHead(nn.Module, ABC):
    """From named maps to class logits; dropout of whole channels, then a 1x1 convolution.

    Args:
        channels: width of what ``predict`` is given.
        num_classes: K.
        dropout: probability that a channel is dropped in training.
        loss_weight: factor of this head's cross entropy; the meta-architecture applies it.
    """

    def __init__(
        self, channels: int, num_classes: int, *, dropout: float, loss_weight: float
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)
        init_predictor(self.predictor)

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """``(B, C, h, w)`` by name -> logits ``(B, K, h', w')``."""

    def predict(self, feature: Tensor) -> Tensor:
        """``(B, channels, h, w)`` -> logits ``(B, K, h, w)``."""
        return self.predictor(self.dropout(feature))


def init_predictor(predictor: nn.Conv2d) -> None:
    """The official start of a classifier: all classes nearly alike."""
    nn.init.normal_(predictor.weight, std=0.01)
    assert predictor.bias is not None
    nn.init.zeros_(predictor.bias)


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, norm: Norm, bias: bool = False
) -> Conv2d:
    """A convolution that keeps the size, normalised and rectified; keys as in Detectron2."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=bias or not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    c2_msra_fill(conv)
    return conv


def resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, C, h, w)`` -> ``(B, C, *size)``, bilinear, ``align_corners=False``."""
    if feature.shape[-2:] == size:
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
