"""Random arguments for the ops, and the ops themselves as loops in float64."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Arguments of both entries."""

    shapes: list[tuple[int, int]]
    value: Tensor
    locations: Tensor
    weights: Tensor
    points: Tensor
    offsets: Tensor
    logits: Tensor

    @property
    def plain(self):
        return self.value, self.shapes, self.locations, self.weights

    @property
    def fused(self):
        return self.value, self.shapes, self.points, self.offsets, self.logits

    def map(self, function):
        """The case with `function` applied to each tensor."""
        tensors = {k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def requiring_grad(self):
        return self.map(lambda t: t.detach().clone().requires_grad_())


def make_case(
    shapes=((5, 4), (3, 2)), B=2, Q=7, M=3, D=5, P=4, numbers=2, dtype=torch.float64, shared=False
):
    """Samples inside, on the border and outside; none closer than 0.01 to an integer pixel."""
    generator = torch.Generator().manual_seed(B + 10 * Q + 100 * M + 1000 * D + P + numbers)
    L, S = len(shapes), sum(h * w for h, w in shapes)

    def rand(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64).view(L, 1, 2)
    cell = (rand(B, Q, M, L, P, 2) * (sizes + 3)).floor() - 2  # from -2 to size
    pixel = cell + 0.01 + 0.98 * rand(B, Q, M, L, P, 2)
    points = rand(1 if shared else B, Q, L, numbers)
    center = points[:, :, None, :, None, :2] * sizes - 0.5
    step = points[:, :, None, :, None, 2:] * sizes * 0.5 / max(P, 1) if numbers == 4 else 1.0
    logits = rand(B, Q, M, L, P) * 6 - 3
    case = Case(
        list(shapes),
        rand(B, S, M, D) * 2 - 1,
        (pixel + 0.5) / sizes,
        logits.flatten(3).softmax(-1).view_as(logits),
        points,
        (pixel - center) / step,
        logits,
    )
    return case.map(lambda t: t.to(dtype))


def _bilinear(grid, x, y):
    """One sample of `grid`, (H, W, D), at pixel (x, y); None if it contributes nothing."""
    H, W, _ = grid.shape
    if not (-1 < x < W and -1 < y < H):
        return None
    total = torch.zeros(grid.shape[2], dtype=torch.float64)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            if 0 <= row < H and 0 <= column < W and weight > 0:
                total += weight * grid[row, column]
    return total


def naive(value, shapes, locations, weights):
    """`ms_deform_attn` as loops in float64."""
    B, _, M, D = value.shape
    _, Q, _, L, P, _ = locations.shape
    output = torch.zeros(B, Q, M, D, dtype=torch.float64)
    levels = value.double().split([h * w for h, w in shapes], 1)
    for b, q, m, level, p in torch.cartesian_prod(*map(torch.arange, (B, Q, M, L, P))).tolist():
        H, W = shapes[level]
        x, y = locations[b, q, m, level, p].tolist()
        sample = _bilinear(levels[level][b, :, m].view(H, W, D), x * W - 0.5, y * H - 0.5)
        if sample is not None:
            output[b, q, m] += weights[b, q, m, level, p].double() * sample
    return output.flatten(2)


def naive_fused(value, shapes, points, offsets, logits):
    """`ms_deform_attn_fused` as loops in float64."""
    P = logits.shape[4]
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64).view(-1, 1, 2)
    points, offsets, logits = points.double(), offsets.double(), logits.double()
    center = points[:, :, None, :, None, :2]
    box = points[:, :, None, :, None, 2:]
    if points.shape[3] == 2:
        locations = center + offsets / sizes
    else:
        locations = center + offsets / P * box * 0.5
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return naive(value, shapes, locations, weights)
