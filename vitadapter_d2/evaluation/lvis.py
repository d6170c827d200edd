"""Detectron2's LVIS evaluator on today's numpy."""

import types
from typing import Any

import numpy as np
from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator


class LVISEvaluator(Detectron2LVISEvaluator):
    """Detectron2's evaluator, where the package lvis would stop at a name that numpy dropped.

    Arguments are those of the parent.

    Raises:
        ModuleNotFoundError: lvis is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        repair_lvis()
        super().__init__(*args, **kwargs)


def repair_lvis() -> None:
    """Gives lvis, and nothing else, ``numpy.float``, which numpy has not had since 1.24.

    Raises:
        ModuleNotFoundError: lvis is not installed.
    """
    try:
        import lvis.eval
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LVIS needs the package lvis (pip install --no-deps lvis): {error}"
        ) from error
    if not hasattr(lvis.eval.np, "float"):
        lvis.eval.np = types.SimpleNamespace(**{**vars(np), "float": float})
