import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitadapter_d2.ops import _library, backend, cuda_backend

ROOT = Path(__file__).parents[2]
CALL = """
import logging, torch
logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
from vitadapter_d2.ops import backend, ms_deform_attn
print(backend())
for _ in range(2):
    ms_deform_attn(torch.ones(1, 4, 1, 8), [(2, 2)], torch.rand(1, 3, 1, 1, 4, 2),
                   torch.rand(1, 3, 1, 1, 4))
"""


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_backend_names_the_instruction_set_or_the_reason():
    if _library._state.library is None:
        assert backend().startswith("reference (PyTorch): ")
    else:
        assert backend() in [f"C++ ({name})" for name in _library.INSTRUCTION_SETS]
    assert cuda_backend().startswith(("reference (PyTorch): ", "CUDA ("))


def test_the_reference_says_once_that_it_runs():
    done = run(CALL, VITADAPTER_CPU_CAPABILITY="reference")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reference (PyTorch): VITADAPTER_CPU_CAPABILITY=reference\n"
    assert done.stderr.count("vitadapter_d2.ops._library WARNING ms_deform_attn on cpu") == 1


def test_without_a_library_the_reason_names_the_command_that_builds_it(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    monkeypatch.setattr(_library, "_state", _library._State())
    _library.load()
    assert _library.BUILD_COMMAND in backend()
    with pytest.raises(RuntimeError, match="no compiled kernels"):
        _library.use_instruction_set("generic")


def test_a_library_that_does_not_load_is_a_reason_not_a_crash(monkeypatch, tmp_path):
    (tmp_path / "_C.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    monkeypatch.setattr(_library, "_state", _library._State())
    monkeypatch.delenv("VITADAPTER_CPU_CAPABILITY", raising=False)
    _library.load()
    assert "does not load" in backend()


def test_an_unknown_capability_is_an_error():
    done = run("import vitadapter_d2.ops", VITADAPTER_CPU_CAPABILITY="sse9")
    assert "expected one of reference, generic, avx2, avx512, got 'sse9'" in done.stderr


def test_the_package_imports_torch_and_nothing_else_of_ours():
    code = (
        "import sys, vitadapter_d2.ops;"
        "print([m for m in ('timm', 'detectron2', 'torchvision', 'fvcore') if m in sys.modules])"
    )
    assert run(code).stdout == "[]\n"
