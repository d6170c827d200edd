"""Sparse R-CNN: a fixed set of learned proposals, refined in stages, without NMS."""

from vitadapter_d2.modeling.sparse_rcnn.criterion import SetCriterion
from vitadapter_d2.modeling.sparse_rcnn.head import DynamicConv, DynamicHead, DynamicStage
from vitadapter_d2.modeling.sparse_rcnn.matcher import HungarianMatcher
from vitadapter_d2.modeling.sparse_rcnn.model import SparseRCNN
from vitadapter_d2.modeling.sparse_rcnn.structures import BoxPrediction, BoxTargets

__all__ = [
    "BoxPrediction",
    "BoxTargets",
    "DynamicConv",
    "DynamicHead",
    "DynamicStage",
    "HungarianMatcher",
    "SetCriterion",
    "SparseRCNN",
]
