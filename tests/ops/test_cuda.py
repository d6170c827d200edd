"""The CUDA kernels on a GPU. Without one, test_cuda_emulated.py runs their source on the CPU."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REFERENCE_NAMESPACE
from deform_cases import make_case, naive, naive_fused
from torch.testing import assert_close

from vitadapter_d2.ops import _library, cuda_backend, ms_deform_attn, ms_deform_attn_fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
FUNCTIONS = {"plain": ms_deform_attn, "fused": ms_deform_attn_fused}
PYRAMID = ((6, 5), (3, 3), (2, 1))
SIZES = {
    "official": {"shapes": PYRAMID, "D": 32},
    "one level": {"shapes": ((6, 5),), "D": 64, "Q": 50},
    "sixteen samples": {"shapes": (*PYRAMID, (1, 1)), "D": 64},
    "wide": {"shapes": PYRAMID, "D": 128, "Q": 3},
    "other samples": {"shapes": PYRAMID, "D": 32, "P": 3},
    "odd": {"shapes": PYRAMID, "D": 37, "P": 3},
    "one channel": {"shapes": ((1, 1),), "D": 1, "P": 1, "M": 1, "B": 1, "Q": 1},
    "many samples": {"shapes": PYRAMID, "D": 24, "P": 70, "B": 1, "Q": 2, "M": 2},
}
# DCNv4's kernel lets a block straddle two images at these: (B, Q).
STRADDLING = [(4, 900), (8, 300), (4, 100)]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


@pytest.fixture(autouse=True)
def needs_the_library():
    if _library._state.cuda_library is None:
        pytest.fail(f"{cuda_backend()}: {_library.CUDA_BUILD_COMMAND}")


@pytest.fixture(params=[False, True], ids=["atomic", "deterministic"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def on_gpu(case):
    return case.map(lambda t: t.cuda())


def run(function, case, arguments, grad):
    """[output, then the gradient of each tensor]."""
    leaves = [t.detach().clone().requires_grad_() for t in arguments if isinstance(t, torch.Tensor)]
    output = function(leaves[0], case.shapes, *leaves[1:])
    output.backward(grad)
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def exact(name, case, grad):
    """What `run` should give: the formulation in float64 on the CPU."""
    ops = getattr(torch.ops, REFERENCE_NAMESPACE)
    function = getattr(ops, FUNCTIONS[name].__name__)
    flat = [size for shape in case.shapes for size in shape]
    case = case.map(lambda t: t.cpu().double())
    return run(
        lambda value, _, *others: function(value, flat, *others),
        case,
        getattr(case, name),
        grad.cpu().double(),
    )


def random_grad(case):
    B, _, M, D = case.value.shape
    torch.manual_seed(0)
    grad = torch.randn(B, case.logits.shape[1], M * D)
    return grad.to(case.value.dtype).to(case.value.device)


def close(actual, expected, tolerance):
    assert_close(actual.cpu().double(), expected, rtol=tolerance, atol=tolerance)


def check_against_exact(name, case):
    grad, dtype = random_grad(case), case.value.dtype
    results = run(FUNCTIONS[name], case, getattr(case, name), grad)
    bound = 1e-10 if dtype == torch.float64 else max(4 * TOLERANCE[dtype], 1e-4)
    for actual, expected in zip(results, exact(name, case, grad), strict=True):
        assert actual.dtype == dtype
        error = (actual.cpu().double() - expected).abs().max()
        assert error <= bound * expected.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_values_equal_the_loops(size, dtype):
    case = make_case(**SIZES[size], numbers=4 if size == "odd" else 2, dtype=dtype)
    if dtype != torch.float64:
        case = case.map(lambda t: t if t is case.value else t.float())
    device = on_gpu(case)
    close(ms_deform_attn(*device.plain), naive(*case.plain), TOLERANCE[dtype])
    fused = ms_deform_attn_fused(*device.fused)
    assert fused.dtype == dtype
    close(fused, naive_fused(*case.fused), max(TOLERANCE[dtype], 5e-5 * (dtype.itemsize < 8)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_follow_float64(deterministic, size, dtype, name):
    numbers = 4 if size in ("official", "odd") else 2
    shared = size == "official"
    check_against_exact(
        name, on_gpu(make_case(**SIZES[size], numbers=numbers, shared=shared, dtype=dtype))
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name):
    case = on_gpu(make_case(B=1, Q=3, M=2, D=5)).requiring_grad()
    leaves = [t for t in getattr(case, name) if isinstance(t, torch.Tensor)]
    function = FUNCTIONS[name]
    # Atomics: a sum's order, and with it the last digit, may differ from call to call.
    assert torch.autograd.gradcheck(
        lambda value, *others: function(value, case.shapes, *others), leaves, nondet_tol=1e-12
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("B,Q", STRADDLING)
def test_blocks_belong_to_one_image(B, Q, name):
    case = on_gpu(make_case(shapes=((9, 7), (5, 4)), B=B, Q=Q, M=8, D=32, dtype=torch.float32))
    check_against_exact(name, case)
    together = FUNCTIONS[name](*getattr(case, name))
    for b in range(B):
        one = case.map(lambda t, b=b: t[b : b + 1])
        assert torch.equal(together[b : b + 1], FUNCTIONS[name](*getattr(one, name)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e30, 40.0])
def test_samples_that_are_nowhere_leave_no_trace(deterministic, bad):
    case = make_case(D=32)
    case.locations[:, 2, :, 1, 3, 0] = case.offsets[:, 2, :, 1, 3, 0] = bad
    case = on_gpu(case)
    for name, function in FUNCTIONS.items():
        results = run(function, case, getattr(case, name), random_grad(case))
        assert all(result.isfinite().all() for result in results)
        assert (results[-2][:, 2, :, 1, 3] == 0).all()
    if abs(bad) < 1e30:  # the formulation's own arithmetic needs finite numbers
        check_against_exact("fused", case)


def test_a_corner_of_weight_zero_is_not_read():
    value = torch.full((1, 16, 1, 32), float("nan"), device="cuda")
    value[:, 5] = 2.0
    center = torch.tensor([1.5, 1.5], device="cuda").div(4).expand(1, 1, 1, 1, 4, 2)
    weights = torch.full((1, 1, 1, 1, 4), 0.25, device="cuda")
    output = ms_deform_attn(value, [(4, 4)], center, weights)
    assert_close(output, torch.full_like(output, 2.0))


@pytest.mark.parametrize("size", [{"Q": 0}, {"B": 0}, {"P": 0}, {"M": 0}, {"D": 0}])
def test_empty_calls(deterministic, size):
    case = on_gpu(make_case(**size))
    for name, function in FUNCTIONS.items():
        results = run(function, case, getattr(case, name), random_grad(case))
        assert all((result == 0).all() for result in results)


def test_opcheck():
    case = on_gpu(make_case(dtype=torch.bfloat16)).requiring_grad()
    flat = [size for shape in case.shapes for size in shape]
    plain = (case.value, flat, case.locations, case.weights)
    fused = (case.value, flat, case.points, case.offsets, case.logits)
    ops, tests = torch.ops.vitadapter_d2, ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.ms_deform_attn.default, plain)
    torch.library.opcheck(ops.ms_deform_attn_fused.default, fused)
    grad = random_grad(case)
    with torch.no_grad():
        torch.library.opcheck(ops.ms_deform_attn_backward.default, (grad, *plain), test_utils=tests)
        for needed in (False, True):
            torch.library.opcheck(
                ops.ms_deform_attn_fused_backward.default, (grad, *fused, needed), test_utils=tests
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_deterministic_backward_repeats_itself(dtype):
    case = on_gpu(make_case(shapes=((3, 2),), B=2, Q=4000, M=4, D=32, dtype=dtype))
    grad = random_grad(case)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [run(ms_deform_attn_fused, case, case.fused, grad) for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


def test_it_runs_on_the_current_stream_and_waits_for_nothing():
    case = on_gpu(make_case(D=32, dtype=torch.float32))
    expected = run(ms_deform_attn_fused, case, case.fused, random_grad(case))
    stream, late = torch.cuda.Stream(), case.map(torch.zeros_like)
    grad = random_grad(case)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            for name, tensor in vars(case).items():
                if isinstance(tensor, torch.Tensor):
                    getattr(late, name).copy_(tensor)
            results = run(ms_deform_attn_fused, late, late.fused, grad)
            assert not stream.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert_close(results, expected)


def test_a_cuda_graph_replays_it():
    case = on_gpu(make_case(D=32, dtype=torch.float32))
    ms_deform_attn_fused(*case.fused)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = ms_deform_attn_fused(*case.fused)
    case.value.mul_(2)
    graph.replay()
    assert_close(output, ms_deform_attn_fused(*case.fused))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic):
    case = on_gpu(make_case(D=32, dtype=torch.float32))
    compiled = torch.compile(ms_deform_attn_fused, fullgraph=True, dynamic=dynamic)
    grad = random_grad(case)
    assert_close(
        run(compiled, case, case.fused, grad), run(ms_deform_attn_fused, case, case.fused, grad)
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_device_than_the_current_one():
    case = make_case(D=32)
    other = case.map(lambda t: t.to("cuda:1"))
    for name, function in FUNCTIONS.items():
        results = run(function, other, getattr(other, name), random_grad(other))
        expected = exact(name, case, random_grad(case))
        assert results[0].device.index == 1 and torch.cuda.current_device() == 0
        for actual, wanted in zip(results, expected, strict=True):
            close(actual, wanted, 1e-10)


def test_bad_arguments_are_named():
    case = on_gpu(make_case())
    op = torch.ops.vitadapter_d2.ms_deform_attn
    flat = [size for shape in case.shapes for size in shape]
    with pytest.raises(RuntimeError, match="attention_weights: expected value's device"):
        op(case.value, flat, case.locations, case.weights.cpu())
    with pytest.raises(RuntimeError, match="sampling_locations: expected size 7"):
        op(case.value, flat, case.locations[:, 1:], case.weights)
    levels = on_gpu(make_case(shapes=[(1, 1)] * 65, P=1))
    with pytest.raises(RuntimeError, match="at most 64 levels on CUDA, got 65"):
        ms_deform_attn(*levels.plain)


def test_views_that_are_not_aligned_are_read():
    case = on_gpu(make_case(D=32, Q=3, dtype=torch.float32))
    room = torch.empty(case.value.numel() + 1, device="cuda")
    shifted = room[1:].view(case.value.shape).copy_(case.value)
    assert_close(
        ms_deform_attn(shifted, *case.plain[1:]), ms_deform_attn(*case.plain), rtol=0, atol=1e-6
    )


@pytest.mark.slow
def test_more_elements_than_int32_counts():
    rows = 2**31 // 512 + 8
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GB")
    value = torch.zeros(1, rows, 4, 128, dtype=torch.bfloat16, device="cuda")
    value[:, -1] = 3.0
    location = torch.tensor([1.0, 0.5], device="cuda").expand(1, 2, 4, 1, 4, 2).clone()
    location[..., 0] -= 0.5 / rows  # the last row's center
    value.requires_grad_()
    output = ms_deform_attn(value, [(1, rows)], location, torch.full((1, 2, 4, 1, 4), 0.25).cuda())
    assert_close(output.float(), torch.full((1, 2, 512), 3.0, device="cuda"), rtol=0, atol=1.0)
    output.sum().backward()
    total = value.grad[:, -2:].float().sum((1, 3))  # both queries, wherever float32 put them
    assert_close(total, torch.full((1, 4), 256.0, device="cuda"), rtol=0.02, atol=0)


SANITIZED = """
import sys, torch
sys.path[:0] = sys.argv[1:]
from deform_cases import make_case
from vitadapter_d2.ops import ms_deform_attn_fused
for dtype in (torch.float32, torch.bfloat16):
    for D, P in ((32, 4), (32, 3), (5, 4)):
        case = make_case(D=D, P=P, B=3, Q=19, dtype=dtype).map(lambda t: t.cuda())
        ms_deform_attn_fused(*case.requiring_grad().fused).sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    here = Path(__file__).parent
    command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9"]
    command += [sys.executable, "-c", SANITIZED, str(here), str(here.parents[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
