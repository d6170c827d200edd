"""Every op test runs over the PyTorch formulation and over each compiled instruction set."""

import importlib
import os
import shutil
import sys

import pytest
import torch

from vitadapter_d2.ops import _library

# `vitadapter_d2.ops.ms_deform_attn` is the function; this is the module of the same name.
op_module = importlib.import_module("vitadapter_d2.ops.ms_deform_attn")

REFERENCE_NAMESPACE = "vitadapter_d2_reference"
# The same schemas and autograd, no compiled kernels behind them; dropping it would undefine them.
_REFERENCE_LIBRARY = op_module.define_ops(REFERENCE_NAMESPACE)


def use(name):
    """Make `name` run the ops; returns their namespace, or skips if it cannot be had here."""
    if name == "reference":
        return getattr(torch.ops, REFERENCE_NAMESPACE)
    if _library._state.library is None:
        can_build = sys.platform != "win32" and any(
            command and shutil.which(command) for command in (os.environ.get("CXX"), "c++", "g++")
        )
        if can_build and _library._torch_release() >= _library.MIN_TORCH:
            pytest.fail(f"the kernels can be built and are not: {_library.BUILD_COMMAND}")
        pytest.skip(f"the kernels cannot be built here: {_library._state.reason}")
    if _library.use_instruction_set(name) != name:
        pytest.skip(f"this processor has no {name}")
    return torch.ops.vitadapter_d2


def run_by(name, monkeypatch):
    namespace = use(name)
    monkeypatch.setattr(op_module, "_OPS", namespace)
    yield namespace
    if _library._state.library is not None:
        _library.use_instruction_set(_library.INSTRUCTION_SETS[-1])


@pytest.fixture(params=["reference", *_library.INSTRUCTION_SETS])
def ops(request, monkeypatch):
    """The op namespace in use; the public functions go through it as well."""
    yield from run_by(request.param, monkeypatch)


@pytest.fixture(params=_library.INSTRUCTION_SETS)
def compiled(request, monkeypatch):
    """As `ops`, only the compiled ones."""
    yield from run_by(request.param, monkeypatch)
