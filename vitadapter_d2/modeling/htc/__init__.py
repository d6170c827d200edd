"""Hybrid Task Cascade, the HTC++ of ViT-Adapter."""

from vitadapter_d2.modeling.htc.extra_attention import AttentionFPN, ExtraAttention
from vitadapter_d2.modeling.htc.mask_head import HTCMaskHead
from vitadapter_d2.modeling.htc.model import HybridTaskCascade
from vitadapter_d2.modeling.htc.roi_heads import HTCROIHeads
from vitadapter_d2.modeling.htc.semantic_head import FusedSemanticHead, SemanticOutput

__all__ = [
    "AttentionFPN",
    "ExtraAttention",
    "FusedSemanticHead",
    "HTCMaskHead",
    "HTCROIHeads",
    "HybridTaskCascade",
    "SemanticOutput",
]
