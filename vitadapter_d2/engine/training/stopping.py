"""Ending a training between two iterations because the system asks for it.

Schedulers give a job some seconds before they take its machine away: enough to save, if the run
hears of it.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from detectron2.engine import HookBase
from detectron2.utils import comm

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.sharded import is_sharded

_asked: list[signal.Signals] = []


class StoppedError(KeyboardInterrupt):
    """The run has saved and ends, as a signal asked for.

    Attributes:
        signal: which.
        iterations: how many are done.
    """

    def __init__(self, number: signal.Signals, iterations: int) -> None:
        super().__init__(
            f"{number.name}: stopped after {iterations} iterations; --resume continues there"
        )
        self.signal, self.iterations = number, iterations


@contextmanager
def listening(*numbers: signal.Signals, then: Callable[[], None] | None = None) -> Iterator[None]:
    """Takes note of signals within the block.

    A second SIGTERM ends the process, and the first one those that it has forked, such as data
    loaders; these pass over the other signals, which schedulers send to all that they find. A
    loader that has ended is met when data are asked for, between two steps.

    Args:
        *numbers: which.
        then: called at the first of each kind.
    """
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        found, is_forked = signal.Signals(number), os.getpid() != owner
        if found == signal.SIGTERM and (is_forked or found in _asked):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not is_forked and found not in _asked:
            _asked.append(found)
            # torch's tells of a data loader that has died, wherever this process is.
            before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            if then:
                then()

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def asked() -> signal.Signals | None:
    """The first signal that was noted in the block that this is in."""
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
        """See :meth:`stop`; a training that is at its end goes on to it."""
        number = getattr(self.trainer, "stop_signal", None)
        if number is not None and self.trainer.iter + 1 < self.trainer.max_iter:
            self.stop(number)

    def stop(self, number: signal.Signals) -> NoReturn:
        """Saves what is done, in all processes.

        Raises:
            StoppedError: it is saved.
            OSError: it cannot be written.
        """
        trainer, problem = self.trainer, None
        if trainer.iter >= trainer.start_iter:
            try:
                self._save(trainer.iter)
            except OSError as error:
                problem = error
        comm.synchronize()
        if problem:
            raise problem
        # Not on record, it is evaluated and recorded when the run is resumed.
        trainer.storage.latest().clear()
        raise StoppedError(number, trainer.iter + 1)

    def _save(self, iteration: int) -> None:
        name = f"model_{iteration:07d}"
        is_there = Path(self.checkpointer.get_checkpoint_file()).stem == name
        if is_sharded(self.checkpointer.model) or not is_there:  # all take part, or none
            self.checkpointer.save(name, iteration=iteration)
