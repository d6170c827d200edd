"""The compiled kernels: where they are, whether they load, what to say when they do not."""

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _cuda

BUILD_COMMAND = "pip install --no-build-isolation -e ."
CUDA_BUILD_COMMAND = f"FORCE_CUDA=1 {BUILD_COMMAND}"
MIN_TORCH = (2, 11)  # the first release whose stable ABI has all that csrc/ uses

# In csrc/ms_deform_attn/ms_deform_attn.h's order, best last.
INSTRUCTION_SETS = ("generic", "avx2", "avx512")

_logger = logging.getLogger(__name__)


@dataclass
class _State:
    """The loaded libraries, or why there are none."""

    library: ctypes.CDLL | None = None
    reason: str = "not loaded yet"
    cuda_library: ctypes.CDLL | None = None
    cuda_reason: str = "not loaded yet"


_state = _State()


def _torch_release() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def load() -> None:
    """Load the compiled kernels if they are there; remember why not if they are not.

    `VITADAPTER_CPU_CAPABILITY` (reference, generic, avx2, avx512) caps what is used.
    """
    wanted = os.environ.get("VITADAPTER_CPU_CAPABILITY", INSTRUCTION_SETS[-1])
    if wanted not in ("reference", *INSTRUCTION_SETS):
        legal = ", ".join(("reference", *INSTRUCTION_SETS))
        raise ValueError(f"VITADAPTER_CPU_CAPABILITY: expected one of {legal}, got {wanted!r}")
    if wanted == "reference":
        _state.reason = "VITADAPTER_CPU_CAPABILITY=reference"
    else:
        _state.library, _state.reason = _open("_C", BUILD_COMMAND)
        if _state.library is not None:
            use_instruction_set(wanted)
    _load_cuda()


def _load_cuda() -> None:
    if torch.version.cuda is None:
        _state.cuda_reason = f"torch {torch.__version__} is built without CUDA"
        return
    _state.cuda_library, _state.cuda_reason = _open("_C_cuda", CUDA_BUILD_COMMAND)
    if _state.cuda_library is not None:
        _state.cuda_library.vitadapter_d2_cuda_architectures.restype = ctypes.c_char_p
        _register_cuda()


@functools.cache
def _register_cuda() -> torch.library.Library:
    return _cuda.register()


def _open(stem: str, build_command: str) -> tuple[ctypes.CDLL | None, str]:
    """Load the library of ops named `stem`; returns it, or None, and why it is None."""
    files = sorted(Path(__file__).parent.glob(f"{stem}.*so"))
    if not files:
        return None, f"the kernels are not built; `{build_command}` builds them"
    if _torch_release() < MIN_TORCH:
        return None, f"the kernels need torch 2.11 or later, this is {torch.__version__}"
    try:
        torch.ops.load_library(str(files[0]))
    except (OSError, RuntimeError) as error:
        return None, f"{files[0].name} does not load ({error}); `{build_command}` rebuilds it"
    return ctypes.CDLL(str(files[0])), ""


def use_instruction_set(name: str) -> str:
    """Let the CPU kernels use at most instruction set `name`; returns the one in use.

    Raises:
        RuntimeError: if no compiled library is loaded.
    """
    if _state.library is None:
        raise RuntimeError(f"no compiled kernels: {_state.reason}")
    level = INSTRUCTION_SETS.index(name)
    return INSTRUCTION_SETS[_state.library.vitadapter_d2_use_instruction_set(level)]


def backend() -> str:
    """What runs the ops on CPU tensors: "C++ (avx512)" or "reference (PyTorch): <why>"."""
    if _state.library is None:
        return f"reference (PyTorch): {_state.reason}"
    return f"C++ ({INSTRUCTION_SETS[_state.library.vitadapter_d2_instruction_set()]})"


def cuda_backend() -> str:
    """What runs the ops on CUDA tensors: "CUDA (8.0, 9.0)" or "reference (PyTorch): <why>".

    The numbers are the architectures that the kernels were compiled for.
    """
    if _state.cuda_library is None:
        return f"reference (PyTorch): {_state.cuda_reason}"
    return f"CUDA ({_state.cuda_library.vitadapter_d2_cuda_architectures().decode()})"


@functools.cache
def _warn_once(device: str) -> None:
    what = {"cpu": backend, "cuda": cuda_backend}.get(device, lambda: "reference (PyTorch)")()
    _logger.warning("ms_deform_attn on %s: %s. The results are the same, slower.", device, what)


def reference_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, which says once per kind of device that the slower formulation is running."""

    @functools.wraps(kernel)
    def run(first: Tensor, *args: Any) -> Any:
        _warn_once(first.device.type)
        return kernel(first, *args)

    return run
