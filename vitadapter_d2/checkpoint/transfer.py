"""A trained ViT-Adapter from one kind of model into another."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vitadapter_d2.modeling.backbone.vit_adapter import ViTAdapter

_ADAPTER = re.compile(r"^(.*?)spatial_prior\.")


def adapter_places(model: nn.Module) -> tuple[str, ...]:
    """What the names of a model's ViT-Adapters begin with, ``backbone.`` for example."""
    parts = model.named_modules()
    return tuple(f"{name}." if name else "" for name, part in parts if isinstance(part, ViTAdapter))


def move_adapter(state_dict: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Gives the ViT-Adapter in a checkpoint the place that it has in a model.

    The same backbone is ``backbone`` of a Mask2Former and ``backbone.bottom_up`` of a Mask R-CNN,
    where a pyramid is around it; either may start from the other's file.

    Args:
        state_dict: of a model of this project.
        model: where it goes.

    Returns:
        The tensors, those of the adapter under the model's names; the same ones unless file and
        model have one ViT-Adapter each, in different places.
    """
    inside = {match[1] for name in state_dict if (match := _ADAPTER.match(name))}
    places = adapter_places(model)
    if len(inside) != 1 or len(places) != 1:
        return state_dict
    (old,), (new,) = inside, places
    if old == new:
        return state_dict
    return {
        new + name.removeprefix(old) if name.startswith(old) else name: tensor
        for name, tensor in state_dict.items()
    }
