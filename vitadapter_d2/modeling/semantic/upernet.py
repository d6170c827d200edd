"""The UPerNet head."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm
from vitadapter_d2.modeling.semantic.head import SemanticHead, conv_norm_relu, resize


class PyramidPooling(nn.Module):
    """Context of the whole map, at several grids, put beside each of its cells.

    Reference: PSPNet, Sec. 3.2, arXiv 1612.01105.

    Args:
        in_channels: width of the map.
        channels: width of each grid and of the result.
        scales: cells on each side of the grids.
        norm: normalisation of Detectron2's ``get_norm``. Batch statistics of a 1x1 grid need two
            images at least.
    """

    def __init__(self, in_channels: int, channels: int, scales: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.branches = nn.ModuleList(
            conv_norm_relu(in_channels, channels, 1, norm) for _ in self.scales
        )
        self.fuse = conv_norm_relu(in_channels + len(self.scales) * channels, channels, 3, norm)

    def forward(self, feature: Tensor) -> Tensor:
        """``(B, in_channels, h, w)`` -> ``(B, channels, h, w)``.

        Raises:
            ValueError: batch statistics of a 1x1 grid are wanted of one image.
        """
        if len(feature) == 1 and any(map(self._has_one_value, self.branches, self.scales)):
            raise ValueError(
                "the pyramid pooling's 1x1 grid of 1 image has no batch statistics; train with 2 "
                "images or more, with several processes, or with sem_seg_head.norm='GN'"
            )
        height, width = feature.shape[-2:]
        context = [
            resize(branch(F.adaptive_avg_pool2d(feature, scale)), (height, width))
            for branch, scale in zip(self.branches, self.scales, strict=True)
        ]
        return self.fuse(torch.cat([feature, *context], dim=1))

    @staticmethod
    def _has_one_value(branch: nn.Module, scale: int) -> bool:
        # By type: the synchronised norms, which subclass it or its base, see other processes too.
        return scale == 1 and type(branch.norm) is nn.BatchNorm2d and branch.norm.training


class UPerNetHead(SemanticHead):
    """Pyramid pooling on the coarsest level, an FPN over all, and their concatenation.

    Reference: UPerNet, Sec. 3.1, arXiv 1807.10221, as mmsegmentation builds it: lateral
    convolutions are normalised and rectified too, levels are added after bilinear resizing.

    Args:
        in_channels: width of the levels.
        num_classes: K.
        channels: inner width.
        pool_scales: grids of the pyramid pooling.
        in_features: the levels, finest first.
        norm: normalisation of Detectron2's ``get_norm``.
        dropout: probability that a channel is dropped before the classifier.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: Norm = "BN",
        dropout: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(channels, num_classes, dropout=dropout, loss_weight=loss_weight)
        *finer, self.coarsest = in_features
        self.pyramid_pooling = PyramidPooling(in_channels, channels, pool_scales, norm)
        self.lateral_convs = nn.ModuleDict(
            {name: conv_norm_relu(in_channels, channels, 1, norm) for name in finer}
        )
        self.output_convs = nn.ModuleDict(
            {name: conv_norm_relu(channels, channels, 3, norm) for name in finer}
        )
        self.fuse = conv_norm_relu(len(in_features) * channels, channels, 3, norm)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits at the size of the finest level.

        Args:
            features: the levels ``(B, in_channels, h, w)`` by name, of any sizes.

        Returns:
            ``(B, K, h, w)``.
        """
        merged = self.pyramid_pooling(features[self.coarsest])
        outputs = [merged]
        for name in reversed(list(self.lateral_convs)):
            lateral = self.lateral_convs[name](features[name])
            merged = lateral + resize(merged, (lateral.shape[2], lateral.shape[3]))
            outputs.insert(0, self.output_convs[name](merged))
        size = (outputs[0].shape[2], outputs[0].shape[3])
        return self.predict(self.fuse(torch.cat([resize(o, size) for o in outputs], dim=1)))
