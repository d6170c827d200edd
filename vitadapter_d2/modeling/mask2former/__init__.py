"""Mask2Former: meta-architecture and the parts that a config assembles."""

from vitadapter_d2.modeling.mask2former.criterion import SetCriterion
from vitadapter_d2.modeling.mask2former.head import MaskFormerHead
from vitadapter_d2.modeling.mask2former.matcher import HungarianMatcher
from vitadapter_d2.modeling.mask2former.model import Mask2Former
from vitadapter_d2.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from vitadapter_d2.modeling.mask2former.transformer_decoder import MaskedTransformerDecoder

__all__ = [
    "HungarianMatcher",
    "Mask2Former",
    "MaskFormerHead",
    "MaskedTransformerDecoder",
    "MSDeformAttnPixelDecoder",
    "SetCriterion",
]
