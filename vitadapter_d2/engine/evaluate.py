"""Evaluation of a model as the config says."""

import copy
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitadapter_d2.data import Tolerant
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

Results = Mapping[str, Mapping[str, float]]

# Who wraps the data, outermost first: Detectron2's loaders and datasets, and ours.
_WRAPPED = ("samples", "dataset", "_dataset", "_records")
# What a reader looks for first: task and key of Detectron2's results, and its usual name.
HEADLINES = (
    ("panoptic_seg", "PQ", "PQ"),
    ("bbox", "AP", "box AP"),
    ("segm", "AP", "mask AP"),
    ("sem_seg", "mIoU", "mIoU"),
)


def do_test(cfg: DictConfig, model: nn.Module) -> Results:
    """Runs ``cfg.dataloader.test`` through ``cfg.dataloader.evaluator``.

    Args:
        cfg: a LazyConfig; the evaluator may be one or a list; ``test``, if there is one, wraps the
            model.
        model: Detectron2's input and output formats.

    Returns:
        task -> metric -> value, as Detectron2's evaluators give it; empty but on the main process.
    """
    evaluators = instantiate(cfg.dataloader.evaluator)
    if isinstance(evaluators, DatasetEvaluator):
        evaluators = [evaluators]
    model = model_under_test(cfg, model)
    loader = instantiate(_naming_files(loader_under_test(cfg, model)))
    results = inference_on_dataset(model, loader, DatasetEvaluators(list(evaluators)))
    if results:
        logger.info("%s", summary_line(results))
    return results or OrderedDict()


def check_test(cfg: DictConfig, model: nn.Module) -> Iterable[Any]:
    """Fails as :func:`do_test` would, without running the model.

    Training asks first: the first evaluation may be hours away.

    Returns:
        The loader of what will be evaluated.

    Raises:
        FileNotFoundError: the data set to be evaluated, or an image of it, is missing.
        ValueError: ``test`` is wrong.
    """
    loader = instantiate(_naming_files(loader_under_test(cfg, model_under_test(cfg, model))))
    files = (record.get("file_name", "") for record in records_behind(loader) or ())
    missing = [file for file in files if file and "://" not in file and not Path(file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]}{more} does not exist")
    return loader


def records_behind(loader: Any) -> Sequence[Any] | None:
    """The records that a data loader's samples are made of, or None if it does not tell."""
    while inner := [getattr(loader, name) for name in _WRAPPED if hasattr(loader, name)]:
        loader = inner[0]
    return loader if hasattr(loader, "__len__") else None


def _naming_files(loader: DictConfig) -> DictConfig:
    """A test loader whose errors name the file that could not be read."""
    if "mapper" in loader:
        loader.mapper = LazyCall(Tolerant)(mapper=loader.mapper)
    return loader


def model_under_test(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model as ``cfg.test`` wants it tested, for example through a sliding window.

    Args:
        cfg: a LazyConfig; its ``test`` is a call without ``model``, see
            :class:`vitadapter_d2.inference.semantic.SemanticTester`.
        model: may be a ``DistributedDataParallel``.

    Returns:
        A module around the bare model; that itself if the config has no ``test``.

    Raises:
        ValueError: ``test`` does not say what to call, as after an override of a config without.
    """
    # In evaluation processes have different numbers of batches, and nothing to exchange.
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if "test" not in cfg:
        return model
    if "_target_" not in cfg.test:
        raise ValueError(
            "test must be a call such as L(SemanticTester)(mode='slide', ...); this config has "
            f"none, only {cfg.test}"
        )
    test = copy.deepcopy(cfg.test)  # the config stays one that can be saved
    test.model = model
    return instantiate(test)


def loader_under_test(cfg: DictConfig, tester: nn.Module) -> DictConfig:
    """``cfg.dataloader.test``; its mapper leaves images as they are for a tester that resizes.

    Args:
        cfg: a LazyConfig.
        tester: what :func:`model_under_test` gives.
    """
    loader = copy.deepcopy(cfg.dataloader.test)
    if getattr(tester, "resizes", False):
        loader.mapper.augmentations = []
    return loader


def summary_line(results: Results) -> str:
    """The main metrics in one line, e.g. ``PQ 53.2  box AP 41.0  mask AP 40.2  mIoU 75.1``."""
    values = [
        f"{name} {_value(results, task, key):.1f}"
        for task, key, name in HEADLINES
        if key in results.get(task, {})
    ]
    return "  ".join(values) or "no metrics"


def write_results(results: Results, path: Path) -> None:
    """Every metric as JSON: task -> metric -> value; what is not a number becomes null."""
    content = {
        task: {name: _number(value) for name, value in metrics.items()}
        for task, metrics in results.items()
    }
    with replacing(path, "w") as file:
        json.dump(content, file, indent=1)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, Real) and math.isfinite(value)  # numpy's, too
    return float(value) if is_number else None


def _value(results: Mapping[str, Any], task: str, key: str) -> float:
    return float(results[task][key])
