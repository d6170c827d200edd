"""Ending a training between two iterations because the system asks for it.

Schedulers give a job some seconds before they take its machine away: enough to save, if the run
hears of it.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm

from vitadapter_d2.checkpoint.checkpointer import Checkpointer

_asked: list[signal.Signals] = []


class StoppedError(KeyboardInterrupt):
    """The run has saved and ends, as a signal asked for.

    Attributes:
        signal: which.
    """

    def __init__(self, number: signal.Signals, iteration: int) -> None:
        super().__init__(
            f"{number.name}: stopped after {iteration} iterations; --resume continues there"
        )
        self.signal = number


@contextmanager
def listening(*numbers: signal.Signals, then: Callable[[], None] | None = None) -> Iterator[None]:
    """Takes note of signals within the block; the second of a kind acts as it does by default.

    Args:
        *numbers: which.
        then: called at each that is noted.
    """
    owner = os.getpid()
    _asked.clear()

    def note(number: int, frame: FrameType | None) -> None:
        found = signal.Signals(number)
        if found in _asked or os.getpid() != owner:  # it has started processes, which inherit this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _asked.append(found)
        if then:
            then()

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def asked() -> signal.Signals | None:
    """The first signal that was noted in the last such block."""
    return _asked[0] if _asked else None


class Stopping(HookBase):
    """Saves and ends the training if a process of it has been asked to.

    Comes behind what saves, in all processes; what is behind it is done when the run is resumed.

    Args:
        checkpointer: of the training.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        """Saves and raises.

        Raises:
            StoppedError: in all processes, when the checkpoint is written.
        """
        number = getattr(self.trainer, "stop_signal", None)
        iteration = self.trainer.iter
        if number is None or iteration + 1 >= self.trainer.max_iter:  # that ends by itself
            return
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        comm.synchronize()
        # Not on record, it is evaluated and recorded when the run is resumed.
        self.trainer.storage.latest().clear()
        raise StoppedError(number, iteration + 1)
