"""The fully convolutional head, which supervises an inner level in training."""

from collections.abc import Mapping

from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.spatial_prior import Norm
from vitadapter_d2.modeling.semantic.head import SemanticHead, conv_norm_relu


class FCNHead(SemanticHead):
    """3x3 convolutions on one level, then the classifier.

    Reference: FCN, arXiv 1411.4038, as the auxiliary head of mmsegmentation.

    Args:
        in_channels: width of the level.
        num_classes: K.
        channels: inner width.
        num_convs: number of 3x3 convolutions.
        in_feature: the level.
        norm: normalisation of Detectron2's ``get_norm``.
        dropout: probability that a channel is dropped before the classifier.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        num_convs: int = 1,
        in_feature: str = "res4",
        norm: Norm = "BN",
        dropout: float = 0.1,
        loss_weight: float = 0.4,
    ) -> None:
        if num_convs < 1:
            raise ValueError(f"num_convs must be at least 1, got {num_convs}")
        super().__init__(channels, num_classes, dropout=dropout, loss_weight=loss_weight)
        self.in_feature = in_feature
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(in_channels if index == 0 else channels, channels, 3, norm)
                for index in range(num_convs)
            )
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits ``(B, K, h, w)`` at the size of the level."""
        return self.predict(self.convs(features[self.in_feature]))
