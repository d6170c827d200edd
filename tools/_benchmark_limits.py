"""What bounds the op on this machine: gathering rows from cache, and moving tensors once."""

import statistics
from collections.abc import Callable

import torch
from _benchmark_cases import POINTS, Arguments
from torch import Tensor
from torch.nn import functional as F

Timer = Callable[[Callable[[], object]], float]


def _corner_rows(a: Arguments, head: int) -> Tensor:
    """(Q, L * P * 4) rows of one head's slice that its samples' corners are."""
    rows, start = [], 0
    for level, (height, width) in enumerate(a.shapes):
        x, y = a.locations[0, :, head, level].unbind(-1)
        column, row = (x * width - 0.5).floor().long(), (y * height - 0.5).floor().long()
        for down in (0, 1):
            for right in (0, 1):
                line = (row + down).clamp(0, height - 1) * width
                rows.append(start + line + (column + right).clamp(0, width - 1))
        start += height * width
    return torch.cat(rows, -1)


def gather_ms(a: Arguments, timer: Timer) -> float:
    """Milliseconds that `embedding_bag` takes to sum the same rows, heads already packed.

    No coordinates, no softmax, no packing: what is left when all else costs nothing. float32
    whatever the value's dtype.
    """
    heads = a.value.shape[2]
    tables = [a.value[0, :, head].float().contiguous() for head in range(heads)]
    bags = [_corner_rows(a, head) for head in range(heads)]
    weight = torch.rand(bags[0].shape, device=a.value.device)

    def run() -> None:
        for table, bag in zip(tables, bags, strict=True):
            F.embedding_bag(bag, table, mode="sum", per_sample_weights=weight)

    assert bags[0].shape[1] == len(a.shapes) * POINTS * 4
    run()
    return statistics.median(timer(run) for _ in range(5))


def gathered_bytes(a: Arguments) -> int:
    """Bytes of the four rows of each sample."""
    return a.weights.numel() * 4 * a.value.shape[3] * a.value.element_size()


def cache_rate(a: Arguments, timer: Timer) -> float:
    """Bytes per second at which a sum reads as much as is gathered from: slices of heads.

    One per thread on a CPU; all of them on a GPU, whose threads share a cache.
    """
    S, M, D = a.value.shape[1:]
    slices = M if a.value.is_cuda else torch.get_num_threads()
    numbers = max(S * D * a.value.element_size() * slices // 4, 1 << 16)
    source = torch.ones(numbers, device=a.value.device)

    def run() -> None:
        for _ in range(20):
            source.sum()

    run()
    seconds = statistics.median(timer(run) for _ in range(5)) / 20 / 1e3
    return source.numel() * 4 / seconds


def moved_bytes(a: Arguments) -> int:
    """Bytes of what a fused forward reads and writes, each once."""
    tensors = (a.value, a.points, a.offsets, a.logits, a.grad_output)  # the last as the output
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def copy_rate(device: str, timer: Timer) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.ones(64 << 20, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = statistics.median(timer(lambda: target.copy_(source)) for _ in range(5)) / 1e3
    return 2 * source.numel() * source.element_size() / seconds
