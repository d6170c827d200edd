"""Tensors that are spread over processes, and the plain files that hold them whole.

torch's ``distributed.checkpoint.state_dict`` gathers too, but names the optimizer's parameters
where a plain file numbers them; here both kinds of run write and read one format.
"""

from typing import Any

from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are spread over the processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory; of a plain one, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of a sharded one in every process, all of which must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(states: Any) -> Any:
    """Nested states with whole tensors, those that were sharded on the CPU of the main process.

    One tensor at a time is whole on a device. All processes must call; but for the main one, they
    get None for what was sharded.
    """
    return tree_map_only(DTensor, _on_main_process, states)


def _on_main_process(tensor: DTensor) -> Tensor | None:
    full = tensor.full_tensor()
    return full.cpu() if comm.is_main_process() else None


def shard_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A tensor that every process has whole, spread as ``reference`` is; plain for a plain one.

    Args:
        tensor: on any device, of the reference's shape.
        reference: gives the processes and the device.
    """
    if not isinstance(reference, DTensor) or isinstance(tensor, DTensor):
        return tensor
    # Without a source, each process takes its part of its own copy.
    return distribute_tensor(
        tensor.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None
    )
