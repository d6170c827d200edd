"""The CUDA kernels' own source, run on the CPU: arithmetic, lanes, shuffles, indices, launches.

What only a GPU can show is in test_cuda.py.
"""

import importlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import REFERENCE_NAMESPACE
from deform_cases import make_case, naive, naive_fused
from torch.testing import assert_close

from vitadapter_d2.ops import _cuda, ms_deform_attn, ms_deform_attn_fused

op_module = importlib.import_module("vitadapter_d2.ops.ms_deform_attn")

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "ms_deform_attn"
NAMESPACE = "vitadapter_d2_emulated"
PYRAMID = ((6, 5), (3, 3), (2, 1))
# Lanes per query and samples of every kind of kernel, and queries that do not fill a block.
SIZES = {
    "official": {"shapes": PYRAMID, "D": 32, "Q": 3},
    "one level": {"shapes": ((6, 5),), "D": 64, "Q": 21, "M": 1},
    "sixteen samples": {"shapes": (*PYRAMID, (1, 1)), "D": 32, "Q": 2},
    "wide": {"shapes": PYRAMID, "D": 128, "Q": 2, "M": 1},
    "other samples": {"shapes": PYRAMID, "D": 32, "P": 3, "Q": 2},
    "odd": {"shapes": ((5, 4), (3, 2)), "D": 37, "P": 3, "Q": 2},
}
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def cuda_headers():
    """The folder of a toolkit's headers."""
    homes = [os.environ.get("CUDA_HOME"), *Path("/usr/local").glob("cuda*")]
    homes += Path(sysconfig.get_path("purelib"), "nvidia").glob("*")
    for folder in (Path(home) / "include" for home in homes if home):
        if all((folder / name).exists() for name in ("cuda_runtime.h", "crt/host_config.h")):
            return folder
    pytest.skip("no CUDA headers here")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    torch_folder = Path(torch.__file__).parent
    out = tmp_path_factory.mktemp("emulated") / "emulated.so"
    subprocess.run(
        [
            compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-Wl,-Bsymbolic", "-w",
            "-fvisibility=hidden", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000",
            '-DVITADAPTER_CUDA_ARCHITECTURES="emulated"', f"-I{SOURCES}",
            "-isystem", cuda_headers(), "-isystem", torch_folder / "include",
            "-include", HERE / "cuda_emulation" / "cuda_on_cpu.h",
            "-x", "c++", SOURCES / "cuda_launch.cu",
            f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-o", out,
        ],
        check=True,
    )  # fmt: skip
    libraries = op_module.define_ops(NAMESPACE), _cuda.register(NAMESPACE, "CPU")
    torch.ops.load_library(str(out))
    return libraries


@pytest.fixture
def emulated(library, monkeypatch):
    monkeypatch.setattr(op_module, "_OPS", getattr(torch.ops, NAMESPACE))


@pytest.fixture(params=[False, True], ids=["atomic", "deterministic"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def close(actual, expected, tolerance):
    assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_values_equal_the_loops(emulated, size, dtype):
    case = make_case(**SIZES[size], numbers=4 if size == "odd" else 2, dtype=dtype)
    if dtype != torch.float64:
        case = case.map(lambda t: t if t is case.value else t.float())
    close(ms_deform_attn(*case.plain), naive(*case.plain), TOLERANCE[dtype])
    fused = ms_deform_attn_fused(*case.fused)
    assert fused.dtype == dtype
    close(fused, naive_fused(*case.fused), max(TOLERANCE[dtype], 5e-5 * (dtype.itemsize < 8)))


def gradients(function, case, arguments, grad):
    leaves = [t.detach().clone().requires_grad_() for t in arguments if isinstance(t, torch.Tensor)]
    function(leaves[0], case.shapes, *leaves[1:]).backward(grad)
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_equal_the_formulation(library, monkeypatch, deterministic, size, dtype):
    numbers = 4 if size in ("official", "odd") else 2
    case = make_case(**SIZES[size], numbers=numbers, dtype=dtype, shared=size == "official")
    torch.manual_seed(0)
    B, _, M, D = case.value.shape
    grad = torch.randn(B, case.logits.shape[1], M * D).to(dtype)
    for function, name in ((ms_deform_attn, "plain"), (ms_deform_attn_fused, "fused")):
        results = []
        for namespace, kind in ((NAMESPACE, dtype), (REFERENCE_NAMESPACE, torch.float64)):
            monkeypatch.setattr(op_module, "_OPS", getattr(torch.ops, namespace))
            same = case.map(lambda t, kind=kind: t.to(kind))
            results.append(gradients(function, same, getattr(same, name), grad.to(kind)))
        for actual, expected in zip(*results, strict=True):
            assert actual.dtype == dtype
            bound = 1e-10 if dtype == torch.float64 else max(4 * TOLERANCE[dtype], 1e-4)
            error = (actual.double() - expected).abs().max()
            assert error <= bound * expected.abs().max()


def test_samples_that_are_nowhere_leave_no_trace(emulated, deterministic):
    case = make_case(D=32, Q=5)
    case.offsets[:, 2, :, 1, 3, 0] = float("nan")
    case.offsets[:, 3, :, 1, 3, 1] = float("inf")
    results = gradients(ms_deform_attn_fused, case, case.fused, torch.ones(2, 5, 96).double())
    assert all(grad.isfinite().all() for grad in results)
    assert (results[2][:, 2:4, :, 1, 3] == 0).all()


def test_a_corner_of_weight_zero_is_not_read(emulated):
    value = torch.full((1, 16, 1, 32), float("nan"))
    value[:, 5] = 2.0
    center = torch.tensor([1.5, 1.5]).div(4).expand(1, 1, 1, 1, 4, 2)  # exactly pixel (1, 1)
    weights = torch.full((1, 1, 1, 1, 4), 0.25)
    assert_close(ms_deform_attn(value, [(4, 4)], center, weights), torch.full((1, 1, 32), 2.0))


@pytest.mark.parametrize("Q", [1, 15, 16, 17, 33])
def test_blocks_belong_to_one_image(emulated, Q):
    case = make_case(shapes=((4, 4),), B=3, Q=Q, M=2, D=32, dtype=torch.float32)
    together = ms_deform_attn(*case.plain)
    for b in range(3):
        one = case.map(lambda t, b=b: t[b : b + 1])
        assert torch.equal(together[b : b + 1], ms_deform_attn(*one.plain))


def test_the_deterministic_sum_is_of_integers(emulated):
    # In float32 alone, 1 + 1e-9 is 1, so that the result would depend on the order.
    value = torch.zeros(1, 1, 1, 32, requires_grad=True)
    center = torch.full((1, 3, 1, 1, 4, 2), 0.5)
    weights = torch.tensor([1.0, 1e-9, -1.0]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 4)
    torch.use_deterministic_algorithms(True)
    try:
        ms_deform_attn(value, [(1, 1)], center, weights).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(value.grad, torch.full_like(value, 4e-9), rtol=1e-5, atol=0)


def test_views_that_are_not_aligned_are_read(emulated):
    case = make_case(D=32, Q=3, dtype=torch.float32)
    room = torch.empty(case.value.numel() + 1)
    shifted = room[1:].view(case.value.shape).copy_(case.value)
    assert_close(
        ms_deform_attn(shifted, *case.plain[1:]), ms_deform_attn(*case.plain), rtol=0, atol=1e-6
    )


def test_a_gradient_that_is_not_finite_shows(emulated, deterministic):
    case = make_case(D=32, Q=3)
    grad = torch.ones(2, 3, 96).double()
    grad[0, 1, 5] = float("inf")
    assert not gradients(ms_deform_attn, case, case.plain, grad)[0].isfinite().all()
