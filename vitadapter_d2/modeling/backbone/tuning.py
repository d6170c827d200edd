"""Training less than everything: frozen trunks and blocks, low-rank updates.

The functions take a trunk, change it in place and return it, so that they nest in a config:
``vit=L(with_lora)(vit=L(plain_vit)(...), rank=8)``. Names of the weights stay the same.
"""

from collections.abc import Sequence

from torch import nn

from vitadapter_d2.layers.lora import LoRALinear
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT


class EvalGuard(nn.Module):
    """A child without parameters that puts parts of its parent into eval mode.

    Being asked for train mode after its older siblings, it can take theirs back.

    Args:
        parts: what stays in eval mode.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        # In a tuple, so that they are not its children and have no second name.
        self.parts = tuple(parts)
        self.train()

    def train(self, mode: bool = True) -> "EvalGuard":
        """See ``nn.Module.train``; the parts do not follow."""
        super().train(mode)
        for part in self.parts:
            part.eval()
        return self


def frozen(vit: PlainViT, first_blocks: int | None = None) -> PlainViT:
    """Freezes a trunk, or its embeddings and first blocks.

    Frozen parts get no gradients and stay in eval mode (no drop path) while the model trains.
    Activations are kept only from the first trained part on; in a ViT-Adapter that is the first
    injector, whose gradients pass the frozen blocks.

    Args:
        vit: changed in place.
        first_blocks: number of frozen blocks, 0 for the embeddings alone; None freezes all.

    Returns:
        ``vit``.
    """
    if first_blocks is not None and not 0 <= first_blocks <= vit.depth:
        raise ValueError(f"first_blocks must be in [0, {vit.depth}], got {first_blocks}")
    trained = [] if first_blocks is None else list(vit.blocks[first_blocks:])
    kept = {id(parameter) for block in trained for parameter in block.parameters()}
    for parameter in vit.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
    embeddings = [child for child in vit.children() if child is not vit.blocks]
    blocks = vit.blocks if first_blocks is None else vit.blocks[:first_blocks]
    vit.add_module("eval_guard", EvalGuard([*embeddings, *blocks]))
    return vit


def with_lora(
    vit: PlainViT,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] = ("qkv", "proj"),
) -> PlainViT:
    """Freezes a trunk and adds low-rank updates to linear layers of its blocks.

    Drop path stays as in training; ``merge_lora`` of ``layers/lora.py`` folds the updates in.

    Reference: LoRA, arXiv 2106.09685.

    Args:
        vit: changed in place.
        rank: rank of every update.
        alpha: updates are scaled by ``alpha / rank``; None is ``rank``.
        targets: last names of the layers: "qkv" and "proj" of the attention, "fc1" and "fc2" of
            the MLP; some timm models have others.

    Returns:
        ``vit``.

    Raises:
        ValueError: no block has a linear layer of one of these names.
    """
    linears = {
        name: module
        for name, module in vit.blocks.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, LoRALinear)
    }
    known = {name.rpartition(".")[2] for name in linears}
    if unknown := sorted(set(targets) - known):
        raise ValueError(f"targets must be among {sorted(known)}, got {unknown}")
    vit.requires_grad_(False)
    for name, linear in linears.items():
        parent, _, last = name.rpartition(".")
        if last in targets:
            setattr(
                vit.blocks.get_submodule(parent),
                last,
                LoRALinear(linear, rank, rank if alpha is None else alpha),
            )
    return vit
