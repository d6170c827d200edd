import numpy as np
import pytest
import torch
from deform_cases import make_case, naive, naive_fused
from torch.testing import assert_close

from vitadapter_d2.ops import ms_deform_attn, ms_deform_attn_fused

PYRAMID = ((6, 5), (3, 3), (2, 1))
# Shapes for every path: D of one and several vectors, with and without a tail, L * P known or not,
# queries that do not fill a block.
SIZES = {
    "official": {"shapes": PYRAMID, "D": 32, "P": 4},
    "one level": {"shapes": ((6, 5),), "D": 16, "P": 4, "Q": 50},
    "sixteen samples": {"shapes": (*PYRAMID, (1, 1)), "D": 64, "P": 4},
    "wide": {"shapes": PYRAMID, "D": 128, "P": 4, "Q": 3},
    "odd": {"shapes": PYRAMID, "D": 37, "P": 3},
    "one channel": {"shapes": ((1, 1),), "D": 1, "P": 1, "M": 1, "B": 1, "Q": 1},
    "many samples": {"shapes": PYRAMID, "D": 24, "P": 70, "B": 1, "Q": 2, "M": 2},
}
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def close(actual, expected, tolerance):
    assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_plain_equals_the_loops(ops, size, dtype):
    case = make_case(**SIZES[size], dtype=dtype)
    if dtype != torch.float64:  # locations keep float32
        case = case.map(lambda t: t if t is case.value else t.float())
    output = ms_deform_attn(*case.plain)
    assert output.dtype == dtype
    close(output, naive(*case.plain), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("size", ["official", "one level", "sixteen samples", "odd"])
def test_fused_equals_the_loops(ops, size, numbers, dtype):
    case = make_case(**SIZES[size], numbers=numbers, dtype=dtype, shared=size == "odd")
    output = ms_deform_attn_fused(*case.fused)
    assert output.dtype == dtype
    # Offsets in small boxes are large numbers: float32 keeps fewer digits of the pixel.
    close(output, naive_fused(*case.fused), max(TOLERANCE[dtype], 5e-5 * (dtype.itemsize < 8)))


@pytest.mark.parametrize("size", [{}, {"D": 32, "P": 4}, {"shapes": ((4, 3),), "D": 16, "Q": 20}])
def test_plain_gradients(ops, size):
    case = make_case(**{"B": 1, "Q": 3, "M": 2, **size}).requiring_grad()
    assert torch.autograd.gradcheck(
        lambda v, x, a: ms_deform_attn(v, case.shapes, x, a),
        (case.value, case.locations, case.weights),
        fast_mode=size != {},
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("numbers", [2, 4])
def test_fused_gradients(ops, numbers, shared):
    case = make_case(B=2, Q=3, M=2, D=3, numbers=numbers, shared=shared).requiring_grad()
    assert torch.autograd.gradcheck(
        lambda v, r, o, x: ms_deform_attn_fused(v, case.shapes, r, o, x),
        (case.value, case.points, case.offsets, case.logits),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("numbers", [2, 4])
@pytest.mark.parametrize("size", ["official", "one level", "wide", "odd"])
def test_low_precision_gradients_follow_float64(ops, size, numbers, dtype):
    case = make_case(**SIZES[size], numbers=numbers, dtype=dtype)
    exact = case.map(lambda t: t.double()).requiring_grad()
    case = case.requiring_grad()
    torch.manual_seed(0)
    grad = torch.randn(exact.value.shape[0], exact.logits.shape[1], exact.value[0, 0].numel())
    grad = grad.to(dtype)
    for function in (ms_deform_attn, ms_deform_attn_fused):
        name = "plain" if function is ms_deform_attn else "fused"
        function(*getattr(case, name)).backward(grad)
        function(*getattr(exact, name)).backward(grad.double())
    for name, tensor in vars(case).items():
        if name == "shapes":
            continue
        assert tensor.grad.dtype == dtype, name
        expected = getattr(exact, name).grad
        # Half precision locations are rounded in the input, so both sides sample the same places.
        scale = expected.abs().max().item()
        bound = max(4 * TOLERANCE[dtype], 1e-4)
        assert (tensor.grad.double() - expected).abs().max().item() <= bound * scale, name


def test_each_gradient_has_its_inputs_dtype(ops):
    case = make_case(dtype=torch.bfloat16)
    points = case.points.float().requires_grad_()
    offsets = case.offsets.half().requires_grad_()
    logits = case.logits.float().requires_grad_()
    value = case.value.requires_grad_()
    ms_deform_attn_fused(value, case.shapes, points, offsets, logits).sum().backward()
    for tensor in (value, points, offsets, logits):
        assert tensor.grad.dtype == tensor.dtype


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_useless_locations_contribute_nothing_and_get_no_gradient(ops, bad):
    case = make_case()
    locations, offsets = case.locations.clone(), case.offsets.clone()
    locations[:, 2, :, 1, 3, 0] = offsets[:, 2, :, 1, 3, 0] = bad
    gone = case.weights.clone()
    gone[:, 2, :, 1, 3] = 0
    output = ms_deform_attn(case.value, case.shapes, locations, case.weights)
    assert_close(output, ms_deform_attn(case.value, case.shapes, case.locations, gone))

    for function, arguments in (
        (ms_deform_attn, (locations, case.weights)),
        (ms_deform_attn_fused, (case.points, offsets, case.logits)),
    ):
        tensors = [t.clone().requires_grad_() for t in (case.value, *arguments)]
        function(tensors[0], case.shapes, *tensors[1:]).square().sum().backward()
        assert all(t.grad.isfinite().all() for t in tensors)
        assert (tensors[-2].grad[:, 2, :, 1, 3] == 0).all()


def test_nan_in_a_row_that_nobody_samples_stays_there(ops):
    case = make_case(shapes=((4, 4),), B=2, Q=3, D=16)
    locations = case.locations.clamp(0.0, 0.5)  # rows and columns 0 to 2 at most
    locations[:, 1] = 3.0
    value = case.value.clone()
    value.view(2, 4, 4, -1)[:, 3] = float("nan")
    value[1] = float("nan")
    clean = value.nan_to_num(0.0).requires_grad_()
    value.requires_grad_()
    outputs, grads = [], []
    for v in (value, clean):
        x, a = locations.clone().requires_grad_(), case.weights.clone().requires_grad_()
        outputs.append(ms_deform_attn(v, case.shapes, x, a))
        grads.append(torch.autograd.grad(outputs[-1][:1].sum(), [x, a]))
    assert_close(outputs[0][0], outputs[1][0])
    assert (outputs[0][1, 1] == 0).all()
    assert_close(grads[0][0][0], grads[1][0][0])
    assert_close(grads[0][1][0], grads[1][1][0])


def test_a_corner_of_weight_zero_is_not_read(ops):
    value = torch.full((1, 16, 1, 8), float("nan"))
    value[:, 5] = 2.0
    center = torch.tensor([1.5, 1.5]).div(4).expand(1, 1, 1, 1, 1, 2)  # exactly pixel (1, 1)
    output = ms_deform_attn(value, [(4, 4)], center, torch.ones(1, 1, 1, 1, 1))
    assert_close(output, torch.full((1, 1, 8), 2.0))


def test_samples_on_the_guard_get_no_gradient(ops):
    value = torch.rand(1, 16, 1, 8, requires_grad=True)
    location = torch.tensor([-0.125, 0.5]).expand(1, 1, 1, 1, 1, 2).clone().requires_grad_()
    output = ms_deform_attn(value, [(4, 4)], location, torch.ones(1, 1, 1, 1, 1))
    output.sum().backward()  # x is pixel -1 exactly
    assert (output == 0).all() and (location.grad == 0).all() and (value.grad == 0).all()


@pytest.mark.parametrize("size", [{"Q": 0}, {"B": 0}, {"P": 0}, {"M": 0}, {"D": 0}])
def test_empty_calls(ops, size):
    case = make_case(**size).requiring_grad()
    for output in (ms_deform_attn(*case.plain), ms_deform_attn_fused(*case.fused)):
        B, _, M, D = case.value.shape
        assert output.shape == (B, case.logits.shape[1], M * D)
        assert (output == 0).all()
        output.sum().backward()
    for name in ("value", "locations", "weights", "points", "offsets", "logits"):
        assert (getattr(case, name).grad == 0).all()


def test_layout_of_the_inputs_does_not_matter(ops):
    case = make_case(D=16)
    strided = case.map(lambda t: t.transpose(0, 1).contiguous().transpose(0, 1))
    assert not strided.value.is_contiguous()
    for name, function in (("plain", ms_deform_attn), ("fused", ms_deform_attn_fused)):
        results = []
        for arguments in (getattr(case, name), getattr(strided, name)):
            tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
            leaves = [t.detach().requires_grad_() for t in tensors]
            output = function(leaves[0], case.shapes, *leaves[1:])
            # sum()'s gradient is expanded: strides of zero
            results.append([output, *torch.autograd.grad(output.sum(), leaves)])
        assert_close(results[0], results[1], rtol=0, atol=0)


# Threads are as many as a call is worth: one for the small one; more than there are heads, so that
# heads are split; as many as heads.
@pytest.mark.parametrize("B,Q,M", [(1, 40, 3), (1, 3000, 1), (1, 2500, 3), (5, 300, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(ops, B, Q, M, dtype):
    case = make_case(shapes=((4, 3), (2, 2)), B=B, Q=Q, M=M, D=64, dtype=dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            leaves = case.requiring_grad()
            output = ms_deform_attn_fused(*leaves.fused)
            output.square().sum().backward()
            grads = [leaves.value, leaves.points, leaves.offsets, leaves.logits]
            results.append([output.detach(), *(t.grad for t in grads)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def test_one_map_per_image_when_queries_do_not_fill_a_block(ops):
    # A block that straddled two images would read the other image's maps.
    case = make_case(shapes=((4, 4),), B=4, Q=101, M=2, D=32, dtype=torch.float32)
    together = ms_deform_attn(*case.plain)
    for b in range(4):
        alone = ms_deform_attn(
            case.value[b : b + 1],
            case.shapes,
            case.locations[b : b + 1],
            case.weights[b : b + 1],
        )
        assert torch.equal(together[b : b + 1], alone)


def test_a_value_of_more_than_two_billion_elements(compiled):
    H, W, M, D = 1024, 1024, 40, 64
    # Memory of zeros that nobody wrote takes no room.
    value = torch.from_numpy(np.zeros((1, H * W, M, D), np.int16)).view(torch.bfloat16)
    assert value.numel() > 2**31
    value[0, 0], value[0, -1] = 5.0, 3.0
    corner = torch.tensor([(W - 0.5) / W, (H - 0.5) / H]).expand(1, 1, M, 1, 1, 2)
    output = ms_deform_attn(value, [(H, W)], corner, torch.ones(1, 1, M, 1, 1))
    assert (output == 3).all()
