"""Numbers that all processes share."""

from torch import Tensor, distributed


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all processes, of float values without gradient; themselves if there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
