"""What Detectron2's evaluators lack."""

from vitadapter_d2.evaluation.cityscapes import CityscapesInstanceEvaluator
from vitadapter_d2.evaluation.coco import DetectionEvaluator
from vitadapter_d2.evaluation.lvis import LVISEvaluator
from vitadapter_d2.evaluation.semantic import SemanticEvaluator
from vitadapter_d2.evaluation.things import ThingEvaluator

__all__ = [
    "CityscapesInstanceEvaluator",
    "DetectionEvaluator",
    "LVISEvaluator",
    "SemanticEvaluator",
    "ThingEvaluator",
]
