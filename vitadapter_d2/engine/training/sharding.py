"""Training with a part of the model in each process: FSDP2, for trunks too large for DDP.

Parameters, gradients and the optimizer's state are spread over the processes. Checkpoints are
plain files all the same, see :mod:`vitadapter_d2.checkpoint.sharded`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from vitadapter_d2.checkpoint.sharded import shard_like
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.layers.resample import Grid
from vitadapter_d2.modeling.backbone.interaction import InteractionBlock
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT

logger = logging.getLogger(__name__)

_BLOCK_DTYPES = {
    None: MixedPrecisionPolicy(),
    # The tokens between the blocks, and the sum over the processes, keep float32.
    "bfloat16": MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32),
}


def shard_if_asked(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Spreads a model over the processes where ``train.fsdp`` asks for it and there are several.

    Comes before what holds the parameters: optimizer and averages.

    Args:
        cfg: a LazyConfig; ``train.fsdp`` has ``enabled`` and ``block_dtype``.
        model: on its device; changed in place.

    Returns:
        The model.

    Raises:
        ConfigError: something in the model does not go with sharding.
    """
    options = cfg.train.get("fsdp", {})
    if not options.get("enabled", False):
        return model
    if comm.get_world_size() == 1:
        logger.warning("train.fsdp has no effect with one process.")
        return model
    return shard(model, options.get("block_dtype"))


def shard(model: nn.Module, block_dtype: str | None = None) -> nn.Module:
    """Spreads a model over all processes.

    What is gathered at once: every ViT block, every interaction, and the rest of the model, which
    stays gathered from its forward to its backward. Gradients are exchanged after every backward:
    gathered sums of several micro-batches would take the memory that is to be saved.

    Args:
        model: on its device; changed in place. The main process's values count.
        block_dtype: in which the ViT blocks are gathered and computed, "bfloat16" or None for that
            of their parameters.

    Returns:
        The model.

    Raises:
        ConfigError: see :func:`shard_if_asked`.
    """
    _check(model, block_dtype)
    tensors = (*model.parameters(), *model.buffers())
    sent = [distributed.broadcast(each.detach(), src=0, async_op=True) for each in tensors]
    for work in filter(None, sent):
        work.wait()
    device = next(model.parameters()).device.type
    options: Any = {"mesh": init_device_mesh(device, (comm.get_world_size(),))}
    for module in model.modules():
        if isinstance(module, PlainViT):
            for block in module.blocks:
                fully_shard(block, mp_policy=_BLOCK_DTYPES[block_dtype], **options)
            _run_gathered(module)
    for module in list(model.modules()):
        if isinstance(module, InteractionBlock) and any(True for _ in module.parameters()):
            fully_shard(module, **options)
    fully_shard(model, **options)
    model.register_load_state_dict_pre_hook(_shard_loaded)
    return model


def shard_loaded_state(optimizer: torch.optim.Optimizer) -> None:
    """Lets the optimizer of a sharded model load the state of a plain checkpoint."""
    optimizer.register_load_state_dict_pre_hook(_shard_loaded_state)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Every process has all weights of a sharded model within the block, for evaluation.

    Processes then run any number of images, windows and scales, without waiting for each other.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def _check(model: nn.Module, block_dtype: str | None) -> None:
    if not hasattr(FSDPModule, "set_reshard_after_forward"):
        raise ConfigError(f"train.fsdp needs a later torch than {torch.__version__}")
    if block_dtype not in _BLOCK_DTYPES:
        raise ConfigError(f"train.fsdp.block_dtype must be bfloat16 or None, got {block_dtype!r}")
    for name, parameter in model.named_parameters():
        parent, _, last = name.rpartition(".")
        if parameter.ndim == 0:
            why = "is a single number, which cannot be split (the scales of ATSS and GFL are)"
        elif getattr(model.get_submodule(parent), last) is not parameter:
            why = "is not what its layer computes with (a low-rank update is added)"
        else:
            continue
        raise ConfigError(f"train.fsdp cannot spread this model, {name} {why}; DDP trains it")


def _run_gathered(trunk: PlainViT) -> None:
    """Lets FSDP know when a block runs: a trunk drives most blocks without calling them."""
    blocks: list[Any] = list(trunk.blocks)
    for block in blocks:
        block.run_gathered = partial(trunk.run_block, block)
        register_fsdp_forward_method(block, "run_gathered")
    trunk.run_block = _run_block  # type: ignore[method-assign]


def _run_block(block: Any, tokens: Tensor, grid: Grid) -> Tensor:
    return block.run_gathered(tokens, grid)


def _shard_loaded(model: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in state_dict:
            state_dict[name] = shard_like(state_dict[name], parameter)


def _shard_loaded_state(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]
) -> dict[str, Any]:
    """Numbers in the file count the parameters of all groups."""
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = dict(state_dict["state"])
    for number, parameter in zip(numbers, parameters, strict=False):  # the optimizer compares them
        if number in state:
            state[number] = {
                name: shard_like(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for name, value in state[number].items()
            }
    return {**state_dict, "state": state}
