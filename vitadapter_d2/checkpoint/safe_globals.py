"""What torch's restricted unpickler may meet in a checkpoint besides tensors.

Numbers of numpy, paths and the arguments of a script stand in many published checkpoints. Nothing
of numpy is called for them: small classes of the same names take what was saved.
"""

import codecs
import pickle
from argparse import Namespace
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np


class _DType:
    """Stands in for ``numpy.dtype``: numbers and text only."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufSU":
            raise pickle.UnpicklingError(f"Trying to build a numpy scalar of type {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    """Stands in for numpy's ``scalar``; the second protocol keeps bytes as text."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.dtype, count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``, by which the second protocol writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding!r}")
    return codecs.encode(text, "latin1")


def harmless_globals() -> list[Any]:
    """For ``torch.serialization.safe_globals``."""
    return [
        Namespace,
        PosixPath,
        PurePosixPath,
        PureWindowsPath,
        (_DType, "numpy.dtype"),
        (_scalar, "numpy.core.multiarray.scalar"),
        (_scalar, "numpy._core.multiarray.scalar"),
        (_encode, "_codecs.encode"),
    ]
