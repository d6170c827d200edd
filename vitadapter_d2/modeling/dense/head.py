"""What the heads of the dense detectors share, and the coarsest levels before them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm


class LinearP6P7(LastLevelP6P7):
    """Levels 6 and 7 of an FPN by 3x3 convolutions of stride 2, nothing between them.

    Detectron2's block rectifies P6 on the way to P7; the released weights do not expect that.

    Args:
        channels: width of the FPN's outputs, whose P5 is the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, in_feature="p5")

    def forward(self, feature: Tensor) -> list[Tensor]:
        """``(B, channels, H, W)`` -> maps at half and at a quarter of it, rounded up."""
        p6 = self.p6(feature)
        return [p6, self.p7(p6)]


class Scale(nn.Module):
    """A learnt factor, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, feature: Tensor) -> Tensor:
        """Any shape, kept."""
        return feature * self.scale


class DenseHead(nn.Module):
    """Two towers, shared by all levels, that classify each cell and regress its box.

    Reference: RetinaNet, Sec. 4, arXiv 1708.02002, with normalised convolutions and a scale for
    each level as in FCOS, arXiv 1904.01355, Sec. 3.2.

    Args:
        in_channels: width of the levels.
        num_classes: K.
        box_dim: numbers D that describe a box.
        num_levels: L.
        channels: width of the towers.
        num_convs: 3x3 convolutions in each.
        norm: their normalisation, by Detectron2's ``get_norm``.
        prior_probability: what each class says at the start, in (0, 1).

    Raises:
        ValueError: ``num_convs`` or ``prior_probability`` is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        box_dim: int,
        num_levels: int = 5,
        channels: int = 256,
        num_convs: int = 4,
        norm: Norm = "GN",
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"num_convs must be at least 1, got {num_convs}")
        if not 0 < prior_probability < 1:
            raise ValueError(f"prior_probability must be in (0, 1), got {prior_probability}")
        self.num_classes = num_classes
        self.cls_subnet = _tower(in_channels, channels, num_convs, norm)
        self.bbox_subnet = _tower(in_channels, channels, num_convs, norm)
        self.cls_score = predictor(channels, num_classes)
        assert self.cls_score.bias is not None
        prior_logit = math.log(prior_probability / (1 - prior_probability))
        nn.init.constant_(self.cls_score.bias, prior_logit)
        self.bbox_pred = predictor(channels, box_dim)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Predictions of all cells.

        Args:
            features: the levels ``(B, in_channels, H, W)``, finest first.

        Returns:
            Lists over the levels: class logits ``(B, K, H, W)``, boxes ``(B, D, H, W)``, and
            whatever :meth:`from_box_feature` adds.
        """
        levels = [self._level(*level) for level in zip(features, self.scales, strict=True)]
        return [list(maps) for maps in zip(*levels, strict=True)]

    def _level(self, feature: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        logits = self.cls_score(self.cls_subnet(feature))
        return logits, *self.from_box_feature(self.bbox_subnet(feature), scale)

    def from_box_feature(self, feature: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Predictions ``(B, D, H, W)``, ... from the box tower's map ``(B, channels, H, W)``."""
        return (scale(self.bbox_pred(feature)),)


def predictor(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that starts near zero."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _tower(in_channels: int, channels: int, num_convs: int, norm: Norm) -> nn.Sequential:
    convs = []
    for index in range(num_convs):
        conv = Conv2d(
            in_channels if index == 0 else channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        convs.append(conv)
    return nn.Sequential(*convs)
