"""Published configurations by name."""

from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config import load_config, zoo_names

__all__ = ["get", "get_config", "names"]


def names() -> list[str]:
    """All names, such as ``coco/mask_rcnn_deit_adapter_small_fpn_1x_coco``."""
    return zoo_names()


def get_config(name: str) -> DictConfig:
    """The LazyConfig of a name.

    Raises:
        FileNotFoundError: there is no such name; the message lists all.
    """
    return load_config(name)


def get(name: str, weights: str | None = None) -> nn.Module:
    """A model in evaluation mode on the CPU.

    Args:
        name: one of :func:`names`.
        weights: checkpoint file or URL; None leaves the random initialisation.
    """
    model = instantiate(get_config(name).model)
    if weights:
        Checkpointer(model).load(weights)
    return model.eval()
