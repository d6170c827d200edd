"""Training mappers for mask classification; Detectron2's own ``DatasetMapper`` serves tests."""

from .instance import InstanceMapper
from .segments import PanopticMapper, SemanticMapper

__all__ = ["InstanceMapper", "PanopticMapper", "SemanticMapper"]
