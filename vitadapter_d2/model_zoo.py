"""Published configurations by name."""

from omegaconf import DictConfig
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.calls import instantiate
from vitadapter_d2.engine.config.loading import load_config, zoo_names
from vitadapter_d2.engine.own.classes import set_num_classes, with_classes_of
from vitadapter_d2.engine.training.ema import AveragesTaker

__all__ = ["get", "get_config", "names"]


def names() -> list[str]:
    """All names, such as ``coco/mask_rcnn_deit_adapter_small_fpn_1x_coco``."""
    return zoo_names()


def get_config(name: str) -> DictConfig:
    """The LazyConfig of a name.

    Raises:
        FileNotFoundError: there is no such name; the message has the nearest.
    """
    return load_config(name)


def get(
    name: str,
    weights: str | None = None,
    trained: bool = False,
    num_classes: int | None = None,
) -> nn.Module:
    """A model in evaluation mode on the CPU.

    Of the checkpoint of a training with ``train.ema`` it has the averages, as a Predictor does.

    Args:
        name: one of :func:`names`.
        weights: checkpoint file or URL; None leaves the random initialisation.
        trained: take the weights that the authors released, which are downloaded once.
        num_classes: of your own data; class heads of another size start at random. None takes the
            classes that the weights remember, or the config's.

    Raises:
        FileNotFoundError: there is no such name or file, or no way to the URL.
        ValueError: ``trained`` together with ``weights``, or nothing was released; or the weights
            of another project do not fit, or lack what was frozen. What does not fit of this
            project's own is logged.
    """
    cfg = get_config(name)
    if trained:
        weights = _released(name, cfg, weights)
    if num_classes is not None:
        set_num_classes(cfg.model, num_classes)
    elif weights:
        cfg = with_classes_of(cfg, weights)
    model = instantiate(cfg.model)
    if weights:
        is_other = num_classes is not None
        averages = AveragesTaker(model, other_classes=is_other)
        checkpointer = Checkpointer(model, other_classes=is_other, ema=averages)
        checkpointer.load_whole(weights, cfg.get("zoo", {}).get("pretrained"))
    return model.eval()


def _released(name: str, cfg: DictConfig, weights: str | None) -> str:
    if weights:
        raise ValueError(f"trained=True takes the released weights of {name}, got {weights} too")
    zoo = cfg.get("zoo", {})
    if zoo.get("released"):
        return zoo.released
    told = f"; its pre-trained trunk is {zoo.pretrained}" if zoo.get("pretrained") else ""
    raise ValueError(f"the authors released no weights for {name}{told}")
