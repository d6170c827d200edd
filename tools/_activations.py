"""The memory that a training step keeps for its backward, part by part."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

_BATCH = 2  # BatchNorm refuses to train on one pixel of one image


def count_saved(
    model: nn.Module, forward: Callable[[], Any], prefix: Callable[[str], str]
) -> Counter[str]:
    """Bytes that a forward saves, charged to the innermost module that runs.

    What several operations save counts once, parameters and buffers count nowhere. A checkpointed
    function's input counts for the module that calls it, an interaction for its ViT blocks.

    Args:
        model: in training mode.
        forward: runs the model, or a part of it.
        prefix: the part's name for a module's name.
    """
    counts: Counter[str] = Counter()
    owned = [*model.parameters(), *model.buffers()]
    seen = {_storage_of(tensor) for tensor in owned}

    with running_module(model) as running:

        def pack(tensor: Tensor) -> Tensor:
            # The graph keeps it, and so its storage's address, until the forward is done.
            if (storage := _storage_of(tensor)) not in seen:
                seen.add(storage)
                counts[prefix(running[-1])] += tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = forward()
    del kept
    return counts


def count_saved_on_meta(
    model: nn.Module, forward: nn.Module, size: tuple[int, int], prefix: Callable[[str], str]
) -> Counter[str]:
    """:func:`count_saved` of one image, without allocating anything.

    Attention is counted as fused kernels have it: they save queries, keys, values, biases, the
    output and one number per query, not the matrix. On the meta device torch would take the other
    formulation.

    Args:
        model: on the meta device; it is put into training mode.
        forward: the model or a part of it, takes ``(B, 3, H, W)``.
        size: (height, width) of the image.
        prefix: see :func:`count_saved`.
    """
    images = torch.empty(_BATCH, 3, *size, device="meta")
    model.train()
    with _FusedAttention():
        counts = count_saved(model, partial(forward, images), prefix)
    return Counter({part: size // _BATCH for part, size in counts.items()})


def recompute_everything(model: nn.Module, wanted: bool = True) -> int:
    """Switches activation checkpointing in all modules that offer it; returns their number."""
    switches = [
        (module, name)
        for module in model.modules()
        for name, value in vars(module).items()
        if name.startswith("recompute_") and isinstance(value, bool)
    ]
    for module, name in switches:
        setattr(module, name, wanted)
    return len(switches)


@contextmanager
def running_module(
    model: nn.Module, on_change: Callable[[str], None] = lambda name: None
) -> Iterator[list[str]]:
    """Follows a model's calls.

    Args:
        model: its modules get hooks within the block.
        on_change: called with the name of the innermost module, just before it is another.

    Yields:
        Names of the modules that run, the innermost last.
    """
    running = ["(itself)"]

    def enter(name: str, *_: object) -> None:
        on_change(running[-1])
        running.append(name)

    def leave(*_: object) -> None:
        on_change(running.pop())

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_pre_hook(partial(enter, name)))
            stack.enter_context(module.register_forward_hook(leave))
        yield running
    on_change(running[-1])


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _FusedAttention(TorchFunctionMode):
    """Calls of torch's attention save what its fused kernels save."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            named = [kwargs[name] for name in ("query", "key", "value") if name in kwargs]
            return _Attention.apply(*args[:3], *named, mask)
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, logsumexp)
        return output
