"""What may stand in a pickled checkpoint besides tensors, and plain pickles of arrays.

Numbers of numpy, paths and the arguments of a script stand in many published checkpoints. Nothing
of numpy is called for them: small classes of the same names take what was saved.
"""

import codecs
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np


class RefusedError(pickle.UnpicklingError):
    """A pickle names something that could run code."""


class _DType:
    """Stands in for ``numpy.dtype``: numbers and text only."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufSU":
            raise RefusedError(f"Trying to build a numpy scalar of type {code!r}")

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


class _Array:
    """Stands in for ``numpy.ndarray``."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.array = _frombuffer(raw, dtype, shape, "F" if is_fortran else "C").array


def _reconstruct(*_: object) -> _Array:
    """Stands in for numpy's ``_reconstruct``; the content follows as a state."""
    return _Array()


def _frombuffer(data: bytes, dtype: _DType, shape: tuple[int, ...], order: Any) -> _Array:
    """Stands in for numpy's ``_frombuffer``, of the fifth protocol."""
    made = _Array()
    made.array = np.frombuffer(bytearray(data), dtype.dtype).reshape(shape, order=order)
    return made


_OF_ARRAYS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "_codecs.encode": _encode,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", _reconstruct),
            ("numeric._frombuffer", _frombuffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name: nothing but what arrays need."""
        if f"{module}.{name}" not in _OF_ARRAYS:
            raise RefusedError(f"{module}.{name}")
        return _OF_ARRAYS[f"{module}.{name}"]


def read_arrays(file: IO[bytes]) -> Any:
    """Reads a pickle of arrays, numbers, text and their containers, as Detectron2's zoo has them.

    Args:
        file: opened for reading.

    Raises:
        RefusedError: it names something else, which is not called.
    """
    return _unwrapped(_Unpickler(file, encoding="latin1").load())


def _unwrapped(content: Any) -> Any:
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict):
        return {name: _unwrapped(part) for name, part in content.items()}
    return content
