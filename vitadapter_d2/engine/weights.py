"""The weights that a model predicts with."""

from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer


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


def load_trained(model: nn.Module, weights: str) -> None:
    """Loads a trained model in place.

    Raises:
        ValueError: the weights do not fit, or leave parts of the model at random.
    """
    checkpointer = Checkpointer(model)
    checkpointer.load(weights)
    if checkpointer.report and not checkpointer.report.is_trained:
        raise ValueError(
            f"{weights} is no trained model, parts of this one would stay at random "
            f"({checkpointer.report.summary()})"
        )
