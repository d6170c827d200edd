"""What Detectron2's evaluators lack."""

from vitadapter_d2.evaluation.semantic import SemanticEvaluator

__all__ = ["SemanticEvaluator"]
