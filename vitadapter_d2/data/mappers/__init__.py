"""Training mappers; Detectron2's own ``DatasetMapper`` serves tests, and objects with boxes."""

from vitadapter_d2.data.mappers.boosted import BoostedMapper
from vitadapter_d2.data.mappers.instance import InstanceMapper
from vitadapter_d2.data.mappers.segments import PanopticMapper, SemanticMapper

__all__ = ["BoostedMapper", "InstanceMapper", "PanopticMapper", "SemanticMapper"]
