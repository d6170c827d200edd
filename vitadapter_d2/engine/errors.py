"""Errors that a user can cause, told in one sentence."""

import errno
import logging
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

from vitadapter_d2.data.loading import WorkerDiedError, worker_death

_PACKAGE = Path(__file__).resolve().parents[1]
_USERS_ERRNO = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,  # also a file system's largest file
}
# How torch passes on an error of a data loading process: its traceback is the message.
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
_PLACE = re.compile(r'^  File "(.+)", line \d+, in .+\n    (.+)$', re.MULTILINE)
_REFUSALS = ValueError, TypeError, FileNotFoundError, FloatingPointError


class ConfigError(ValueError):
    """A configuration that cannot work, or one that this machine cannot run."""


def told(error: BaseException) -> str | None:
    """The sentence for an error that the user can mend.

    That is a :class:`ConfigError`, whatever this package refuses by a ``raise`` of its own, and a
    file or folder that is missing, closed to the user or on a full disk.

    Returns:
        None for everything else: a programming error, whose traceback is wanted.
    """
    if isinstance(error, ConfigError | WorkerDiedError):
        return str(error)
    if (sentence := worker_death(error)) is not None:  # met outside of the loader
        return sentence
    if isinstance(error, OSError) and error.errno in _USERS_ERRNO:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    return _refusal(error) if isinstance(error, _REFUSALS) else None


def _refusal(error: BaseException) -> str | None:
    """What it says if a line of this package raised it, not something that the line calls."""
    text = str(error)
    if _IN_WORKER.match(text):
        places = _PLACE.findall(text)
        name = type(error).__name__
        text = re.split(rf"^(?:[\w.]+\.)?{name}: ", text, flags=re.MULTILINE)[-1].strip()
    else:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.line or "") for frame in frames]
    if not places:
        return None
    file, line = places[-1]
    is_ours = Path(file).resolve().is_relative_to(_PACKAGE)
    return text if is_ours and line.startswith("raise") else None


@contextmanager
def sentences_logged(sentence: Callable[[BaseException], str | None]) -> Iterator[None]:
    """Lets Detectron2's training loop log errors as sentences where there are some.

    It logs the traceback of every error that ends a training.

    Args:
        sentence: see :func:`told`.
    """

    def shorten(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (text := sentence(error)) is not None:
            record.exc_info, record.args = None, (text,)
            record.msg = f"{record.msg} %s"
        return True

    logger = logging.getLogger("detectron2.engine.train_loop")
    logger.addFilter(shorten)
    try:
        yield
    finally:
        logger.removeFilter(shorten)


def exit_status(main: Callable[[], int | None]) -> int:
    """Runs a tool; an error that the user can mend is one sentence and gives 1, Ctrl-C 130."""
    try:
        return main() or 0
    except Exception as error:
        sentence = told(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def nearest(name: str, legal: Iterable[str], count: int = 3) -> list[str]:
    """The legal names that look most like a wrong one, best first.

    A dotted path, or one with slashes, counts as a whole and by its last part: people forget
    where a field is more often than what it is called.
    """

    def likeness(other: str) -> float:
        return _ratio(name, other) + _ratio(_leaf(name), _leaf(other))

    return sorted(dict.fromkeys(legal), key=likeness, reverse=True)[:count]


def _leaf(name: str) -> str:
    return name.replace("/", ".").rsplit(".", 1)[-1]


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
