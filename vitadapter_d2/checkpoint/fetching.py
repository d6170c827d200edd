"""Checkpoints from URLs, downloaded once."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from detectron2.utils.file_io import PathManager

_TIMEOUT_S = 60.0  # without an answer, not for the whole file
_DOWNLOADING = threading.Lock()


class DownloadError(FileNotFoundError):
    """A URL that cannot be fetched."""


def local_path(path_or_url: str) -> Path:
    """A file on this machine; URLs are downloaded into iopath's cache, under a lock."""
    try:
        with _downloading(path_or_url):
            path = Path(PathManager.get_local_path(path_or_url))
    except (OSError, HTTPException, RuntimeError) as error:
        raise DownloadError(
            f"{path_or_url} cannot be downloaded ({error}); fetch it where there is a network "
            "and give the file's path"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path_or_url}")
    return path


@contextmanager
def _downloading(path_or_url: str) -> Iterator[None]:
    """The time limit is one of the whole process, so threads take turns."""
    if "://" not in path_or_url:
        yield
        return
    with _DOWNLOADING:
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_TIMEOUT_S)
        try:
            yield
        finally:
            socket.setdefaulttimeout(timeout)
