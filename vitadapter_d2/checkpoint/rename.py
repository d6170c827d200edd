"""Key renaming by rule, the base of every conversion."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str]]


def rename_key(key: str, rules: Rules) -> str:
    """Applies every rule in order; ``re.sub`` semantics, so each says itself what it anchors."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def rename_keys(state_dict: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Renames all keys.

    Args:
        state_dict: names to tensors.
        rules: pairs of a regular expression and its replacement, applied in order.

    Returns:
        A new dict with the same tensors.

    Raises:
        ValueError: two keys become one.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        name = rename_key(key, rules)
        if name in renamed:
            raise ValueError(f"two keys become {name!r}; the second is {key!r}")
        renamed[name] = tensor
    return renamed


def with_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below ``prefix``, which is cut off."""
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in state_dict.items()
        if key.startswith(prefix)
    }


def without(state_dict: Mapping[str, Tensor], patterns: Iterable[str]) -> dict[str, Tensor]:
    """The entries whose key matches none of the regular expressions (``re.search``)."""
    dropped = re.compile("|".join(patterns))
    return {key: tensor for key, tensor in state_dict.items() if not dropped.search(key)}
