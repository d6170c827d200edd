"""Writing files so that a reader never meets half of one."""

import contextlib
import errno
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

# Errors of a write, which does not know the file's name.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file that takes the place of ``path`` when the block ends without an error.

    It is written under a temporary name in the same folder, which is made if it is missing,
    flushed to the disk and renamed, and the new name is flushed too. After an error ``path`` is
    as it was.

    Args:
        path: file to write.
        mode: ``"wb"``, or ``"w"`` for text in UTF-8.

    Raises:
        OSError: it cannot be written; a full disk, too, has ``path`` in its message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes, and threads of one, may write the same file.
    writer = f"{os.getpid()}_{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{writer}.partial")
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in _OF_THE_DISK and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every file system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a file until the block ends or the process dies; what it has forked does not hold it.

    Args:
        path: of the file, which is there as long as the block.

    Raises:
        BlockingIOError: another process holds it, which the message names.
    """
    import fcntl  # of Unix alone

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise BlockingIOError(error.errno, file.read() or "another process") from None
        # Not every file system has locks.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes what :func:`replacing` had not finished in processes that were killed.

    Args:
        folder: one in which nothing is being written; it may be missing.
    """
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 image, ``(H, W)`` or ``(H, W, 3)`` RGB, in the format of the path's suffix.

    Raises:
        ValueError: OpenCV knows no such format.
    """
    import cv2  # here, so that saving a checkpoint does not need it

    bgr = image if image.ndim == 2 else image[:, :, ::-1]
    try:
        _, encoded = cv2.imencode(path.suffix, bgr)
    except cv2.error as error:
        raise ValueError(f"cannot write {path}: no image format {path.suffix!r}") from error
    with replacing(path) as file:
        file.write(encoded)
