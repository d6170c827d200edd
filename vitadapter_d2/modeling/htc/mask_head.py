"""Mask heads that pass their features on to the next stage."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from fvcore.nn import weight_init
from torch import Tensor


class HTCMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with the features of the head before added to its input.

    Reference: Hybrid Task Cascade, Sec. 3.1, "Mask Information Flow", arXiv 1901.07518.

    Args:
        input_shape: of the region features.
        num_classes: K.
        conv_dims: widths of the 3x3 convolutions and, last, of the upsampling.
        takes_features: has the 1x1 projection for the features of the head before.
        **options: further ones of ``MaskRCNNConvUpsampleHead``.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        takes_features: bool,
        **options: Any,
    ) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **options)
        self.conv_res: Conv2d | None = None
        if takes_features:
            self.conv_res = Conv2d(conv_dims[-2], input_shape.channels, 1, activation=F.relu)
            weight_init.c2_msra_fill(self.conv_res)

    def features(self, region: Tensor, previous: Tensor | None = None) -> Tensor:
        """The maps that the masks are made of.

        Args:
            region: ``(R, C, h, w)`` float.
            previous: ``features`` of the head before, for a head that takes them.

        Returns:
            ``(R, C', h, w)``.
        """
        if previous is not None:
            assert self.conv_res is not None, "only heads with takes_features take features"
            region = region + self.conv_res(previous)
        for conv in self.conv_norm_relus:
            region = conv(region)
        return region

    def logits(self, features: Tensor) -> Tensor:
        """Masks of all classes: ``(R, C', h, w)`` -> ``(R, K, 2h, 2w)`` float32."""
        return self.predictor(F.relu(self.deconv(features))).float()
