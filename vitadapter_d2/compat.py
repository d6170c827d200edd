"""Every difference between detectron2 v0.6 and its main branch that this project meets."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn


def supported_kwargs(func: Callable[..., Any], **kwargs: Any) -> dict[str, Any]:
    """Returns the keyword arguments that `func` accepts; main has some that v0.6 lacks."""
    parameters = inspect.signature(func).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {name: value for name, value in kwargs.items() if name in parameters}


def image_list_from_tensors(tensors: Sequence[Tensor], backbone: Backbone) -> ImageList:
    """Batches images of different sizes as `backbone` wants them, padded right and bottom.

    Args:
        tensors: images of shape (C, H_i, W_i), normalised, so that padding is 0.
        backbone: its `size_divisibility` counts, and on main its `padding_constraints` too.

    Returns:
        An `ImageList` whose `tensor` is (B, C, H, W).
    """
    constraints = getattr(backbone, "padding_constraints", {})
    return ImageList.from_tensors(
        list(tensors),
        backbone.size_divisibility,
        **supported_kwargs(ImageList.from_tensors, padding_constraints=constraints),
    )


def create_ddp_model(model: nn.Module, **kwargs: Any) -> nn.Module:
    """Wraps a model if there are several processes; main gives CPU models a GPU's id."""
    from detectron2.engine import create_ddp_model as create  # not for everyone who builds a model

    if not next(model.parameters()).is_cuda:
        kwargs = {"device_ids": None, **kwargs}
    return create(model, **kwargs)


def create_local_process_group(local_size: int) -> None:
    """Makes the groups of each machine's processes, which v0.6 does in its ``launch`` alone."""
    from detectron2.utils import comm
    from torch import distributed

    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    for first in range(0, world_size, local_size):
        ranks = range(first, first + local_size)
        group = distributed.new_group(list(ranks))
        if rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def after_backward(trainer: Any) -> None:
    """Calls the hooks between backward and step, which v0.6 does not have."""
    getattr(trainer, "after_backward", lambda: None)()
