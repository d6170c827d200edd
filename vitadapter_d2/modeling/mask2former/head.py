"""Pixel decoder and transformer decoder under the names of the released weights."""

from collections.abc import Mapping

from torch import Tensor, nn

from vitadapter_d2.modeling.mask2former.structures import MaskPrediction


class MaskFormerHead(nn.Module):
    """Mask classification head: from backbone features to predictions.

    Reference: Mask2Former, Sec. 3.1, arXiv 2112.01527.

    Args:
        pixel_decoder: features to (mask features, maps), as ``MSDeformAttnPixelDecoder``.
        predictor: (maps, mask features) to predictions, as ``MaskedTransformerDecoder``.
    """

    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(self, features: Mapping[str, Tensor]) -> list[MaskPrediction]:
        """Predicts classes and masks.

        Args:
            features: the backbone's levels ``(B, C, H / s, W / s)`` by name.

        Returns:
            One prediction for every supervised output, the final one last.
        """
        mask_features, maps = self.pixel_decoder(features)
        return self.predictor(maps, mask_features)
