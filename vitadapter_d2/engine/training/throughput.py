"""How fast a training runs, and the memory it takes."""

import resource
import sys

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

_WINDOW = 20  # iterations, as the writers smooth
_MIB = 2**20


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that this process held so far, in MiB.

    Args:
        device: on CUDA what tensors took and what torch had reserved; on CPU the process's
            resident memory, without the loader's workers.

    Returns:
        Names that end in ``_MiB`` to sizes.
    """
    if device.type == "cuda":
        return {
            "peak_allocated_MiB": torch.cuda.max_memory_allocated(device) / _MIB,
            "peak_reserved_MiB": torch.cuda.max_memory_reserved(device) / _MIB,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_resident_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB}


class Throughput(HookBase):
    """Puts images per second, the share of time spent waiting for data, and peak memory on record.

    It reads what ``IterationTimer`` and the trainer measured, so it comes after the timer and
    before the writers. Memory is that of the main process, images are those of all processes.

    Args:
        images_per_iteration: of all processes together.
        period: iterations between records.
    """

    def __init__(self, images_per_iteration: int, period: int = 20) -> None:
        self.images_per_iteration = images_per_iteration
        self.period = period

    def after_step(self) -> None:
        """Records at the iterations at which the writers write."""
        iteration = self.trainer.iter + 1
        if iteration % self.period and iteration != self.trainer.max_iter:
            return
        storage: EventStorage = self.trainer.storage
        rates = _rates(storage, self.images_per_iteration)
        storage.put_scalars(**rates, **peak_memory(self.trainer.device), smoothing_hint=False)


def _rates(storage: EventStorage, images: int) -> dict[str, float]:
    """Over the last iterations that were timed; none in the first three, which warm up."""
    histories = storage.histories()
    if "time" not in histories:
        return {}
    seconds = [value for value, _ in histories["time"].values()[-_WINDOW:]]
    rates = {"images_per_s": images * len(seconds) / sum(seconds)}
    if "data_time" in histories:
        waiting = [value for value, _ in histories["data_time"].values()[-len(seconds) :]]
        # The longest wait of all processes may exceed this process's own iteration.
        rates["data_share"] = min(1.0, sum(waiting) / sum(seconds))
    return rates
