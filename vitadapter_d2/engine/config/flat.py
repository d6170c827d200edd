"""A LazyConfig as plain names and values, to be compared and shown."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

Plain = str | int | float | bool | None


def flat_config(cfg: DictConfig) -> dict[str, Plain]:
    """Every value of a config under its dotted path.

    Args:
        cfg: a LazyConfig; references such as ``${..num_classes}`` stay references.

    Returns:
        Paths such as ``model.heads[0].in_features`` to numbers, text and None; classes, functions
        and other objects by name. Modules, which the engine puts in, are left out.
    """
    return dict(_leaves(OmegaConf.to_container(cfg, resolve=False), ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Plain]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple) and any(isinstance(one, dict | list) for one in node):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    elif not isinstance(node, nn.Module):
        yield path, _plain(node)


def _plain(value: Any) -> Plain:
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(_plain(one)) for one in value)}]"
    return str(value)
