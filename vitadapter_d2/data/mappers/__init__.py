"""Training mappers for mask classification; Detectron2's own ``DatasetMapper`` serves tests."""

from vitadapter_d2.data.mappers.instance import InstanceMapper
from vitadapter_d2.data.mappers.segments import PanopticMapper, SemanticMapper

__all__ = ["InstanceMapper", "PanopticMapper", "SemanticMapper"]
