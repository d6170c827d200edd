"""What benchmark_op.py times: the calls of the published models, and who can run them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitadapter_d2.ops import export, ms_deform_attn, ms_deform_attn_fused

POINTS = 4
_SIZES = {"512": (512, 512), "640": (640, 640), "896": (896, 896), "800x1216": (800, 1216)}
_BACKBONES = {"T": (6, 32), "S": (6, 64), "B": (12, 32), "L": (16, 32)}  # heads, head dim
DEFAULT = (
    "S injector 512", "S extractor 512", "B injector 512", "B extractor 512",
    "L injector 800x1216", "L extractor 800x1216", "Mask2Former 512", "Mask2Former 800x1216",
)  # fmt: skip

Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class Workload:
    """One call: the maps that are sampled, and the grids whose pixels ask."""

    name: str
    heads: int
    head_dim: int
    levels: Shapes
    queries: Shapes

    @property
    def num_samples(self) -> int:
        """Samples of all queries, heads, levels and points."""
        queries = sum(h * w for h, w in self.queries)
        return queries * self.heads * len(self.levels) * POINTS


def workloads() -> dict[str, Workload]:
    """Injector and extractor of each ViT-Adapter, Mask2Former's pixel decoder, by name."""
    found = []
    for size, (height, width) in _SIZES.items():
        strides = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]
        for name, (heads, dim) in _BACKBONES.items():
            found.append(Workload(f"{name} injector {size}", heads, dim, strides, strides[1:2]))
            found.append(Workload(f"{name} extractor {size}", heads, dim, strides[1:2], strides))
        found.append(Workload(f"Mask2Former {size}", 8, 32, strides[::-1], strides[::-1]))
    return {workload.name: workload for workload in found}


@dataclass(frozen=True)
class Arguments:
    """The tensors of a workload, for both entries; batch 1.

    Locations and weights are float32 whatever the dtype of `value`, as in the models.
    """

    shapes: Shapes
    value: Tensor
    points: Tensor
    offsets: Tensor
    logits: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor

    @property
    def flat_shapes(self) -> list[int]:
        """(H, W) of each level in turn."""
        return [size for shape in self.shapes for size in shape]


def make_arguments(workload: Workload, dtype: torch.dtype, device: str, spread: float) -> Arguments:
    """Reference points on the queries' pixels, offsets normal around them by `spread` pixels."""
    torch.manual_seed(0)
    grids = [
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
        for h, w in workload.queries
    ]
    centers = torch.cat(grids)
    L, M, Q = len(workload.levels), workload.heads, len(centers)
    points = centers[None, :, None].repeat(1, 1, L, 1)
    offsets = spread * torch.randn(1, Q, M, L, POINTS, 2)
    logits = torch.randn(1, Q, M, L, POINTS)
    sizes = torch.tensor([(w, h) for h, w in workload.levels]).view(L, 1, 2)
    S = sum(h * w for h, w in workload.levels)
    return Arguments(
        workload.levels,
        torch.randn(1, S, M, workload.head_dim).to(device, dtype),
        points.to(device),
        offsets.to(device),
        logits.to(device),
        (points[:, :, None, :, None] + offsets / sizes).to(device),
        logits.flatten(3).softmax(-1).view_as(logits).to(device),
        torch.randn(1, Q, M * workload.head_dim).to(device, dtype),
    )


@dataclass(frozen=True)
class Candidate:
    """One implementation: leaves that need gradients, and the call on them."""

    name: str
    leaves: list[Tensor]
    call: Callable[..., Tensor]
    grad_output: Tensor


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def ours(a: Arguments, fused: bool) -> Candidate:
    """The op."""
    if fused:
        leaves = _leaves(a.value, a.offsets, a.logits)
        call = lambda v, o, x: ms_deform_attn_fused(v, a.shapes, a.points, o, x)  # noqa: E731
    else:
        leaves = _leaves(a.value, a.locations, a.weights)
        call = lambda v, x, w: ms_deform_attn(v, a.shapes, x, w)  # noqa: E731
    return Candidate("ours", leaves, call, a.grad_output)


def grid_sample(a: Arguments, fused: bool) -> Candidate:
    """The formulation that runs everywhere, in float32, which suits it best."""
    value, shapes = a.value.float(), a.flat_shapes
    if fused:
        leaves = _leaves(value, a.offsets, a.logits)
        call = lambda v, o, x: export.grid_sample_attn_fused(v, shapes, a.points, o, x)  # noqa: E731
    else:
        leaves = _leaves(value, a.locations, a.weights)
        call = lambda v, x, w: export.grid_sample_attn(v, shapes, x, w)  # noqa: E731
    return Candidate("grid_sample", leaves, call, a.grad_output.float())


def _starts(a: Arguments) -> tuple[Tensor, Tensor]:
    shapes = torch.tensor(a.shapes, device=a.value.device)
    return shapes, torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))


def _locations(a: Arguments, offsets: Tensor) -> Tensor:
    sizes = torch.tensor([(w, h) for h, w in a.shapes], device=offsets.device).view(-1, 1, 2)
    return a.points[:, :, None, :, None] + offsets / sizes


def classic(a: Arguments, fused: bool) -> Candidate:
    """The op that came with Deformable DETR, in float32: it has no half precision."""
    module = importlib.import_module("MultiScaleDeformableAttention")
    shapes, starts = _starts(a)

    class Classic(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            ctx.save_for_backward(value, locations, weights)
            return module.ms_deform_attn_forward(value, shapes, starts, locations, weights, 1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
            value, locations, weights = ctx.saved_tensors
            return module.ms_deform_attn_backward(
                value, shapes, starts, locations, weights, grad.contiguous(), 1
            )

    def fused_call(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        weights = logits.flatten(3).softmax(-1).view_as(logits)
        return Classic.apply(value, _locations(a, offsets), weights)

    others = (a.offsets, a.logits) if fused else (a.locations, a.weights)
    call = fused_call if fused else Classic.apply
    return Candidate("classic op", _leaves(a.value.float(), *others), call, a.grad_output.float())


def dcnv4(a: Arguments, fused: bool) -> Candidate:
    """DCNv4's FlashDeformAttn, whose one entry has the softmax inside, not the locations."""
    if not fused:
        raise RuntimeError("it takes logits, so it is compared in the fused table")
    function = importlib.import_module("DCNv4.functions").FlashDeformAttnFunction
    shapes, starts = _starts(a)

    def call(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        packed = torch.cat((_locations(a, offsets).flatten(3), logits.flatten(3)), -1)
        return function.apply(value, shapes, starts, packed.to(value.dtype), 1, POINTS)

    return Candidate("DCNv4", _leaves(a.value, a.offsets, a.logits), call, a.grad_output)


PEERS = (grid_sample, classic, dcnv4)


def candidates(a: Arguments, fused: bool) -> tuple[list[Candidate], list[str]]:
    """Ours and every peer that runs these arguments and agrees, and why others do not."""
    runnable, refused = [ours(a, fused)], []
    expected = runnable[0].call(*runnable[0].leaves).float()
    tolerance = 0.05 if a.value.dtype in (torch.bfloat16, torch.float16) else 1e-3
    for peer in PEERS:
        try:
            candidate = peer(a, fused)
            output = candidate.call(*candidate.leaves).float()
            error = (output - expected).abs().max().item()
            if error > tolerance * expected.abs().max().item():
                raise RuntimeError(f"its output differs by {error:.3g}")
            runnable.append(candidate)
        except (ImportError, RuntimeError, TypeError, AttributeError) as reason:
            refused.append(f"{peer.__name__}: {reason}".splitlines()[0])
    return runnable, refused
