"""SETR with progressive upsampling: a plain ViT's stages and the head that enlarges them."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn

from vitadapter_d2.layers.levels import split_levels
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT
from vitadapter_d2.modeling.backbone.spatial_prior import Norm
from vitadapter_d2.modeling.semantic.head import SemanticHead, conv_norm_relu


class PlainViTStages(Backbone):
    """A plain ViT whose patch tokens after some blocks are maps at the trunk's stride.

    Reference: SETR, Sec. 3.2, arXiv 2012.15840.

    Args:
        vit: the trunk.
        out_blocks: blocks after which a map is taken, in ascending order, the trunk's last one at
            the end; the outputs are ``stage1``, ``stage2``, ...
    """

    def __init__(self, vit: PlainViT, out_blocks: Sequence[int]) -> None:
        super().__init__()
        blocks = list(out_blocks)
        if blocks != sorted({*blocks, vit.depth - 1}) or blocks[0] < 0:
            raise ValueError(
                f"out_blocks must ascend in [0, {vit.depth - 1}] and end there, got {blocks}"
            )
        self.vit = vit
        self.out_blocks = blocks
        self._out_features = [f"stage{index}" for index in range(1, len(blocks) + 1)]
        self._out_feature_strides = dict.fromkeys(self._out_features, vit.patch_size)
        self._out_feature_channels = dict.fromkeys(self._out_features, vit.embed_dim)

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads batches to it, which makes the padding in here a no-op."""
        return self.vit.patch_size

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, as detectron2 main asks for it."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            image: ``(B, 3, H, W)`` normalised float, H and W at least 1.

        Returns:
            ``{"stage1": ..., ...}``, each ``(B, embed_dim, ceil(H/stride), ceil(W/stride))``.
        """
        stride, (height, width) = self.size_divisibility, image.shape[-2:]
        tokens, grid = self.vit.embed(F.pad(image, (0, -width % stride, 0, -height % stride)))
        outputs = {}
        first = 0
        for name, last in zip(self._out_features, self.out_blocks, strict=True):
            tokens = self.vit.run(tokens, grid, first, last)
            (feature,) = split_levels(tokens[:, self.vit.num_prefix_tokens :], [grid])
            outputs[name] = feature.contiguous()  # see ViTAdapter.forward
            first = last + 1
        return outputs


class SETRPUPHead(SemanticHead):
    """Convolutions with bilinear enlargement between them.

    Reference: SETR, Sec. 3.2 "Progressive UPsampling (PUP)", arXiv 2012.15840. The last
    enlargement comes after the 1x1 classifier, with which it commutes: the same numbers, cheaper.
    With ``num_convs=1, upsampling=4`` it is the paper's auxiliary head.

    Args:
        in_channels: width of the ViT's map.
        num_classes: K.
        channels: inner width.
        num_convs: number of 3x3 convolutions.
        upsampling: enlargement after each of them.
        in_feature: name of the map.
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
        num_convs: int = 4,
        upsampling: int = 2,
        in_feature: str,
        norm: Norm = "BN",
        dropout: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        if num_convs < 1:
            raise ValueError(f"num_convs must be at least 1, got {num_convs}")
        super().__init__(channels, num_classes, dropout=dropout, loss_weight=loss_weight)
        self.in_feature = in_feature
        self.upsampling = upsampling
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        # The original has biases although a norm follows; the published count includes them.
        self.convs = nn.ModuleList(
            conv_norm_relu(in_channels if index == 0 else channels, channels, 3, norm, bias=True)
            for index in range(num_convs)
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits enlarged by ``upsampling ** num_convs``.

        Args:
            features: holds ``in_feature``, ``(B, in_channels, h, w)``.

        Returns:
            ``(B, K, h', w')``.
        """
        feature = self.norm(features[self.in_feature].movedim(1, -1)).movedim(-1, 1)
        first, *others = self.convs
        feature = first(feature)
        for conv in others:
            feature = conv(self._enlarge(feature))
        return self._enlarge(self.predict(feature))

    def _enlarge(self, feature: Tensor) -> Tensor:
        return F.interpolate(
            feature, scale_factor=self.upsampling, mode="bilinear", align_corners=False
        )
