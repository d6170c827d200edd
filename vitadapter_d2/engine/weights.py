"""The weights that a model predicts with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.report import some
from vitadapter_d2.engine.config.overrides import overrides_field
from vitadapter_d2.engine.training.ema import AveragesTaker
from vitadapter_d2.engine.training.saving import noted_checkpoint


def trained_weights(cfg: DictConfig, weights: str | Path | None = None) -> str:
    """The checkpoint of a trained model, file or URL.

    Args:
        cfg: the model's LazyConfig.
        weights: None takes ``train.init_checkpoint`` of the config.

    Raises:
        ValueError: there is none, or it is what the config starts training from.
    """
    weights = str(weights or cfg.train.init_checkpoint)
    zoo = cfg.get("zoo", {})
    if weights and weights not in (zoo.get("pretrained"), zoo.get("load_from")):
        return weights
    found = f"is {weights}, which training starts from" if weights else "names none"
    released = f"; the authors released {zoo.released}" if zoo.get("released") else ""
    raise ValueError(
        f"weights of a trained model are needed: train.init_checkpoint {found}{released}"
    )


def place_evaluation(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Says where an evaluation's files go, and what it evaluates if nothing does, in place.

    Files go to ``evaluation`` below ``train.output_dir``, so that a run's config, log and pictures
    stay; to that folder itself if the command line names one that holds no run. Without weights
    those of the run's newest checkpoint are taken.

    Args:
        cfg: a LazyConfig, overridden.
        overrides: as on the command line.
    """
    output = Path(str(cfg.train.output_dir))  # values are checked later
    newest = noted_checkpoint(output)
    if newest or not overrides_field(overrides, "train.output_dir"):
        cfg.train.output_dir = str(output / "evaluation")
    if newest and not cfg.train.init_checkpoint:
        cfg.train.init_checkpoint = str(newest)


def load_trained(
    model: nn.Module, weights: str, start: str | None = None, *, use_averages: bool = True
) -> None:
    """Loads a trained model in place.

    Of the checkpoint of a training with ``train.ema`` its averages are taken. Official files with
    averages beside their weights give the weights, as the official test does;
    ``tools/convert_checkpoint.py --ema`` gives the averages.

    Args:
        model: to load into.
        weights: checkpoint file or URL.
        start: what its training started from, for a checkpoint of ``train.trained_only`` that
            lacks the frozen parameters.
        use_averages: False takes the plain weights.

    Raises:
        ValueError: the weights do not fit, or leave parts of the model at random.
    """
    averages: dict[str, Any] = {"ema": AveragesTaker(model)} if use_averages else {}
    checkpointer = Checkpointer(model, **averages)
    checkpointer.load_whole(weights, start)
    report, untouched = checkpointer.report, checkpointer.untouched
    if untouched or (report and not report.is_trained):
        told = report.summary() if report else f"it has no {some(untouched)}"
        raise ValueError(
            f"{weights} is not the whole of this config's model, parts of it would stay at random "
            f"({told}): train first, or take the config that the file was trained with"
        )
