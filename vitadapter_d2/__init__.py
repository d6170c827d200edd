"""ViT-Adapter for Detectron2: any plain ViT as a four-stride backbone.

Importing the package imports nothing else, so that ``vitadapter_d2.ops`` needs torch alone;
the public objects below resolve on first use.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Predictor", "model_zoo"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return import_module("vitadapter_d2.engine.predictor").Predictor
    if name == "model_zoo":
        return import_module("vitadapter_d2.model_zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
