"""The CUDA library is built as `setup.py` builds it, on machines without a GPU as well."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
LOAD = """
import sys, torch
import vitadapter_d2.ops._library as library
library.__file__ = sys.argv[1]
library.load()
assert library.cuda_backend() == "CUDA (9.0)", library.cuda_backend()
for name in ("ms_deform_attn", "ms_deform_attn_fused"):
    for op in (name, name + "_backward", name.replace("ms_deform_attn", "_cuda") + "_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("vitadapter_d2::" + op, "CUDA"), op
"""
needs_nvcc = pytest.mark.skipif(
    torch.version.cuda is None
    or not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()),
    reason="no nvcc, or a torch without CUDA",
)


def build(folder, **environment):
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-temp", str(folder / "objects"), "--build-lib", str(folder)]
    environment = {"VITADAPTER_BUILD_KERNELS": "0", "FORCE_CUDA": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@needs_nvcc
@pytest.mark.slow
def test_it_compiles_for_a_named_architecture_loads_and_registers(tmp_path):
    done = build(tmp_path, TORCH_CUDA_ARCH_LIST="9.0")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "vitadapter_d2" / "ops"
    assert [file.name for file in folder.iterdir()] == ["_C_cuda.abi3.so"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder / "_library.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@needs_nvcc
@pytest.mark.parametrize(
    "asked,message",
    [("Hopper", "expected such as 8.0;9.0+PTX, got 'Hopper'"), ("3.5", "compiles for")],
)
def test_an_architecture_that_cannot_be_had_is_an_error(tmp_path, asked, message):
    done = build(tmp_path, TORCH_CUDA_ARCH_LIST=f"9.0 {asked}")
    assert done.returncode != 0 and message in done.stderr


@pytest.mark.skipif(torch.version.cuda is None, reason="a torch without CUDA")
def test_an_nvcc_that_does_not_fit_torch_is_an_error(tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 9.2, V9.2.148\n")
    nvcc.chmod(0o755)
    done = build(tmp_path, CUDA_HOME=str(tmp_path))
    major = torch.version.cuda.split(".")[0]
    assert done.returncode != 0
    assert f"FORCE_CUDA=1, but torch needs nvcc {major}, {nvcc} is 9" in done.stderr


def test_a_switch_is_0_or_1(tmp_path):
    done = build(tmp_path, FORCE_CUDA="2")
    assert done.returncode != 0 and "FORCE_CUDA: expected 0 or 1, got '2'" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_and_without_being_asked_nothing_is_built(tmp_path):
    done = build(tmp_path, FORCE_CUDA="")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))
