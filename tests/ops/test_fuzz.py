"""Random shapes, dtypes, layouts and locations against a formulation of its own in float64.

`VITADAPTER_FUZZ=5000` (or `make fuzz`) draws that many calls per backend and says so.
"""

import os
import random

import torch

from vitadapter_d2.ops import ms_deform_attn, ms_deform_attn_fused

DRAWS = int(os.environ.get("VITADAPTER_FUZZ", "60"))
NEAR = 1e-3  # pixels; closer than this to an integer, the derivative may be either side's
EPS = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
WIDTHS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 65, 96, 128, 130, 256)


def exact(value, shapes, pixel, attention):
    """Bilinear samples by indexing, differentiable; `pixel` is (B, Q, M, L, P, 2)."""
    B, _, M, _ = value.shape
    b, m = torch.arange(B).view(B, 1, 1, 1), torch.arange(M).view(1, 1, M, 1)
    total = 0.0
    for level, rows in enumerate(value.split([h * w for h, w in shapes], 1)):
        (H, W), weight = shapes[level], attention[:, :, :, level]
        x, y = pixel[:, :, :, level].unbind(-1)
        inside = (x > -1) & (x < W) & (y > -1) & (y < H)
        x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
        for row in (y.floor(), y.floor() + 1):
            for column in (x.floor(), x.floor() + 1):
                there = inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)
                share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * there * weight
                at = (row * W + column).long().clamp(0, H * W - 1)
                total = total + (rows[b, at, m] * share[..., None]).sum(3)
    return total.flatten(2)


def exact_plain(value, shapes, locations, attention):
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64).view(-1, 1, 2)
    pixel = locations.nan_to_num(1e9, 1e9, -1e9) * sizes - 0.5
    return pixel, exact(value, shapes, pixel, attention)


def exact_fused(value, shapes, points, offsets, logits):
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float64).view(-1, 1, 2)
    offsets = offsets.nan_to_num(1e9, 1e9, -1e9)
    if points.shape[3] == 4:
        offsets = offsets * points[:, :, None, :, None, 2:] * sizes * (0.5 / logits.shape[4])
    pixel = points[:, :, None, :, None, :2] * sizes - 0.5 + offsets
    return pixel, exact(value, shapes, pixel, logits.flatten(3).softmax(-1).view_as(logits))


def relaid(draw, tensor):
    """The tensor with other strides; the numbers change only where a batch is repeated."""
    kind = draw.choice(("dense", "dense", "transposed", "sliced", "unaligned", "expanded"))
    if kind == "transposed":
        one, two = draw.sample(range(tensor.dim()), 2)
        return tensor.transpose(one, two).contiguous().transpose(one, two)
    if kind == "sliced":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if kind == "unaligned":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    if kind == "expanded" and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    return tensor


def spoiled(draw, tensor, values):
    """Some of the numbers replaced by extreme ones, in one call of three."""
    if draw.random() < 1 / 3:
        mask = torch.rand(tensor.shape) < draw.choice((0.02, 0.5))
        return torch.where(mask, torch.tensor(draw.choice(values), dtype=tensor.dtype), tensor)
    return tensor


def drawn_call(seed):
    """(fused, shapes, tensors, grad_output, threads): everything that one call needs."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    large = draw.random() < 0.05
    B, M = (
        draw.choice((1, 1, 2, 3) if large else (0, 1, 1, 2, 3)),
        draw.randint(1, 2 if large else 5),
    )
    Q = draw.randint(300, 900) if large else draw.choice((0, 1, 2, 5, 17, 40, 100))
    L, P = draw.choice(((1, 4), (3, 4), (4, 4), (draw.randint(1, 5), draw.randint(1, 6)), (2, 40)))
    D = 64 if large else draw.choice(WIDTHS)
    shapes = [(draw.randint(1, 9), draw.choice((1, 2, 4, 7, 40))) for _ in range(L)]
    fused, numbers = draw.random() < 0.5, draw.choice((2, 4))
    value_dtype = draw.choice(list(EPS))

    def dtype():
        return value_dtype if value_dtype == torch.float64 else draw.choice(list(EPS)[1:])

    value = torch.randn(B, sum(h * w for h, w in shapes), M, D, dtype=torch.float64)
    attention = torch.randn(B, Q, M, L, P, dtype=torch.float64)
    bad = (float("nan"), float("inf"), float("-inf"), 1e30, -7.0)
    if fused:
        points = torch.rand(draw.choice((1, B)) if B else B, Q, L, numbers, dtype=torch.float64)
        offsets = torch.randn(B, Q, M, L, P, 2, dtype=torch.float64) * draw.choice((1, 4, 30))
        attention = spoiled(draw, attention, (-200.0, 80.0))
        others = [points, spoiled(draw, offsets, bad), attention]
    else:
        locations = torch.rand(B, Q, M, L, P, 2, dtype=torch.float64) * 1.6 - 0.3
        others = [spoiled(draw, locations, bad), spoiled(draw, attention, (0.0, -3.0))]
    tensors = [relaid(draw, value.to(value_dtype)), *(relaid(draw, t.to(dtype())) for t in others)]
    grad = relaid(draw, torch.randn(B, Q, M * D, dtype=torch.float64).to(value_dtype))
    return fused, shapes, tensors, grad, draw.choice((1, 1, 2, 5, 16))


def check(seed, name, actual, expected, keep=True):
    """`actual` is finite and within rounding of `expected`, wherever `keep`."""
    assert actual.isfinite().all(), f"seed {seed}: {name} is not finite"
    error = torch.where(torch.as_tensor(keep), (actual.double() - expected).abs(), 0.0)
    scale = 1 + (expected.abs().max().item() if expected.numel() else 0)
    worst = error.max().item() / scale if error.numel() else 0
    assert worst <= EPS[actual.dtype], f"seed {seed}: {name} is off by {worst} of its scale"


def run_draw(seed):
    fused, shapes, tensors, grad, threads = drawn_call(seed)
    torch.set_num_threads(threads)
    leaves = [t.detach().requires_grad_() for t in tensors]
    output = (ms_deform_attn_fused if fused else ms_deform_attn)(leaves[0], shapes, *leaves[1:])
    exact_leaves = [t.detach().double().requires_grad_() for t in tensors]
    pixel, expected = (exact_fused if fused else exact_plain)(
        exact_leaves[0], shapes, *exact_leaves[1:]
    )
    assert output.dtype == tensors[0].dtype and output.is_contiguous()
    check(seed, "output", output.detach(), expected.detach())

    grads = torch.autograd.grad(output, leaves, grad)
    expected_grads = torch.autograd.grad(expected, exact_leaves, grad.double())
    smooth = ((pixel - pixel.round()).abs() > NEAR).all(-1, keepdim=True)  # (B, Q, M, L, P, 1)
    keep = [True, smooth, True]
    if fused:
        keep.insert(1, smooth.all(2).all(3).all(0, keepdim=tensors[1].shape[0] == 1))
    names = ("value", "points", "offsets", "logits") if fused else ("value", "locations", "weights")
    for name, one, two, where in zip(names, grads, expected_grads, keep, strict=True):
        check(seed, f"the gradient of {name}", one, two, where)


def test_random_calls_equal_the_formulation_in_float64(ops, capsys):
    before = torch.get_num_threads()
    try:
        for seed in range(DRAWS):
            run_draw(seed)
    finally:
        torch.set_num_threads(before)
    if "VITADAPTER_FUZZ" in os.environ:
        with capsys.disabled():
            print(f"\nfuzz: {DRAWS} random calls of {ops.ms_deform_attn} agree, with gradients")
