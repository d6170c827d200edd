"""The Semantic FPN head."""

from collections.abc import Mapping, Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm
from vitadapter_d2.modeling.semantic.head import init_predictor


class SemanticFPNHead(SemSegFPNHead):
    """Detectron2's head of the same paper, with dropout before the classifier.

    Reference: Panoptic FPN, Sec. 3 "Semantic segmentation branch", arXiv 1901.02446. Its keys are
    those of Detectron2. Departures from the parent: the forward gives logits at 1/4 and leaves
    loss and upsampling to the meta-architecture; the classifier starts as mmsegmentation's.

    Args:
        in_channels: width of the levels, which come from a Detectron2 ``FPN``.
        num_classes: K.
        channels: inner width.
        in_features: the levels, finest first, ``p2`` to ``p5`` by their strides.
        norm: normalisation of Detectron2's ``get_norm``.
        dropout: probability that a channel is dropped before the classifier.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 128,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        norm: Norm = "BN",
        dropout: float = 0.1,
        loss_weight: float = 1.0,
    ) -> None:
        strides = {name: 2 ** int(name.removeprefix("p")) for name in in_features}
        super().__init__(
            {name: ShapeSpec(channels=in_channels, stride=s) for name, s in strides.items()},
            num_classes=num_classes,
            conv_dims=channels,
            common_stride=min(strides.values()),
            norm=norm,
            loss_weight=loss_weight,
        )
        self.num_classes = num_classes
        self.dropout = nn.Dropout2d(dropout)
        init_predictor(self.predictor)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits at the size of the finest level.

        Args:
            features: the levels ``(B, in_channels, h, w)`` by name, each half as large as the one
                before.

        Returns:
            ``(B, K, h, w)``.
        """
        levels = zip(self.in_features, self.scale_heads, strict=True)
        summed = sum(scale_head(features[name]) for name, scale_head in levels)
        return self.predictor(self.dropout(summed))
