"""Per-pixel semantic segmentation: the meta-architecture and its heads."""

from vitadapter_d2.modeling.semantic.fcn import FCNHead
from vitadapter_d2.modeling.semantic.segmentor import SemanticSegmentor
from vitadapter_d2.modeling.semantic.semantic_fpn import SemanticFPNHead
from vitadapter_d2.modeling.semantic.setr import PlainViTStages, SETRPUPHead
from vitadapter_d2.modeling.semantic.upernet import UPerNetHead

__all__ = [
    "FCNHead",
    "PlainViTStages",
    "SETRPUPHead",
    "SemanticFPNHead",
    "SemanticSegmentor",
    "UPerNetHead",
]
