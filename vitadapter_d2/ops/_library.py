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

BUILD_COMMAND = "pip install --no-build-isolation -e ."
MIN_TORCH = (2, 11)  # the first release whose stable ABI has all that csrc/ uses

# In csrc/ms_deform_attn/ms_deform_attn.h's order, best last.
INSTRUCTION_SETS = ("generic", "avx2", "avx512")

_logger = logging.getLogger(__name__)


@dataclass
class _State:
    """The loaded library, or why there is none."""

    library: ctypes.CDLL | None = None
    reason: str = "not loaded yet"


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
    files = sorted(Path(__file__).parent.glob("_C*.so"))
    if wanted == "reference":
        _state.reason = "VITADAPTER_CPU_CAPABILITY=reference"
    elif not files:
        _state.reason = f"the kernels are not built; `{BUILD_COMMAND}` builds them"
    elif _torch_release() < MIN_TORCH:
        _state.reason = f"the kernels need torch 2.11 or later, this is {torch.__version__}"
    else:
        try:
            torch.ops.load_library(str(files[0]))
        except (OSError, RuntimeError) as error:
            _state.reason = (
                f"{files[0].name} does not load ({error}); `{BUILD_COMMAND}` rebuilds it"
            )
            return
        _state.library = ctypes.CDLL(str(files[0]))
        use_instruction_set(wanted)


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
    """What runs the ops on CUDA tensors: "reference (PyTorch): <why>" as long as that is all."""
    return "reference (PyTorch): there is no CUDA kernel yet"


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
