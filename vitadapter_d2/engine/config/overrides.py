"""Overriding fields of a config from the command line, with nothing added by a slip of the hand."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeGuard

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitadapter_d2.engine.config.calls import BUILT, name_of, parameters, takes_any, target_of
from vitadapter_d2.engine.errors import ConfigError, nearest

Node = DictConfig | ListConfig


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Overrides fields in place.

    A key is legal if the config has it, or if it is an argument of the call that it leads to.
    ``+key=value`` sets whatever it says. Values are read by hydra's grammar, as Detectron2 does:
    numbers, ``true``, ``null``, ``[1,2]``, ``{a:1}``, ``"text with = or ("``, ``${another.field}``.

    Args:
        cfg: a LazyConfig.
        overrides: ``"a.b=c"``; an entry of a list is ``a.0.b`` or ``a[0].b``.

    Returns:
        The same config.

    Raises:
        ConfigError: the key is not legal, the value cannot be read or does not fit; earlier
            overrides have been applied.
    """
    for text in overrides:
        override = _parse(text)
        key, value = str(override.key_or_group), override.value()
        if not (override.is_add() or override.is_force_add()):
            _check(cfg, key, value)
        _set(cfg, key, value, text)
    return cfg


def fields(cfg: DictConfig) -> list[str]:
    """Every field that an override can reach, dotted; arguments that calls leave out among them."""
    return [key for part in sorted(_live(cfg)) for key in _fields(cfg, part, part)]


def overrides_field(overrides: Sequence[str], field: str) -> bool:
    """Whether a command line overrides a field by name."""
    return any(text.lstrip("+").startswith(f"{field}=") for text in overrides)


def _parse(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not equals or not key.strip("+ "):
        raise ConfigError(f"an override is key=value, such as train.max_iter=100; got {text!r}")
    key = re.sub(r"\[(\d+)\]", r".\1", key)  # hydra's grammar knows a.0 alone
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException as error:
        plain = re.fullmatch(r"\+{0,2}[\w$.-]+", key)
        what = f"the value {value}" if plain else f"the key {key}"
        quoting = f"""; text with special characters needs quotes: '{key}="{value}"'"""
        raise ConfigError(
            f"override {text}: {what} cannot be read{quoting if plain else ''}"
        ) from error
    if override.is_delete() or override.package is not None or "/" in override.key_or_group:
        raise ConfigError(f"override {text}: only key=value and +key=value are known")
    if override.is_sweep_override():
        raise ConfigError(f"override {text}: one value is needed; a list is [1,2], in brackets")
    return override


def _set(cfg: DictConfig, key: str, value: Any, text: str) -> None:
    try:
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, IndexError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"override {text}: {reason}") from error


def _check(cfg: DictConfig, key: str, value: Any) -> None:
    """Refuses what must be refused; a mapping is merged, and so checked part by part."""
    parts = key.split(".")
    if parts[0] in cfg and parts[0] not in _live(cfg):
        raise ConfigError(
            f"no use in {key}: {parts[0]} is what other parts of the config were made from, "
            f"nothing reads it any more; nearest: {', '.join(nearest(key, fields(cfg)))}"
        )
    node: Any = cfg
    for index, part in enumerate(parts):
        at = ".".join(parts[:index])
        if not _has(node, part):
            is_last = index == len(parts) - 1
            if is_last and isinstance(node, DictConfig) and _takes(node, at, part):
                return
            raise ConfigError(_unknown(cfg, key, at, node, part))
        reference = _reference(node, part)
        if reference and index < len(parts) - 1:  # OmegaConf would replace it by an empty mapping
            raise ConfigError(
                f"{'.'.join(parts[: index + 1])} of {key} refers to {reference}: override that"
            )
        parent, node = node, _child(node, part)
    _check_value(cfg, key, value, node, parent)


def _check_value(cfg: DictConfig, key: str, value: Any, old: Any, parent: Node) -> None:
    if isinstance(value, Mapping) and isinstance(old, DictConfig):
        for name, entry in value.items():
            _check(cfg, f"{key}.{name}", entry)
        return
    is_reference = isinstance(value, str) and "${" in value
    if is_reference or isinstance(value, Mapping) or (value is None and _may_be_none(parent, key)):
        return
    if isinstance(old, DictConfig) or (_holds_mappings(old) and not isinstance(value, list)):
        kind = "a list of mappings" if isinstance(old, ListConfig) else "a mapping"
        raise ConfigError(
            f"{key} is {kind} and cannot become {value!r}; its fields are "
            f"{', '.join(f'{key}.{name}' for name in _names(old)[:6])}"
        )
    if isinstance(old, bool | int | float) and isinstance(value, str):
        wanted = "true or false" if isinstance(old, bool) else "a number"
        raise ConfigError(f"{key} is {wanted}, now {old}; got {value!r} (+{key}=... forces it)")


def _unknown(cfg: DictConfig, key: str, at: str, node: Any, part: str) -> str:
    """Where a path breaks, and what was perhaps meant."""
    place = at or "the config"
    if isinstance(node, ListConfig):
        where = f"{place} is a list of {len(node)}, entries 0 to {len(node) - 1}, got {part}"
    elif not isinstance(node, DictConfig):
        where = f"{place} is {node!r} and has no fields"
    elif _is_call(node):
        where = f"{place} has no {part!r}, and {name_of(target_of(at, node))} takes none"
    else:
        where = f"{place} has no {part!r}"
    similar = ", ".join(_similar(cfg, key, at, node, part))
    is_open = isinstance(node, DictConfig) and not _is_call(node)
    force = f"; +{key}=... sets it all the same" if is_open else ""
    return f"no field {key}: {where}; nearest: {similar}{force}"


def _similar(cfg: DictConfig, key: str, at: str, node: Any, part: str) -> list[str]:
    """A likely slip in one part of the path goes first, then what looks like the whole."""
    every = fields(cfg)
    rest = key.removeprefix(f"{at}." if at else "").removeprefix(part)
    slips = [
        field
        for name in get_close_matches(part, _names(node), 3)
        if (field := f"{at}.{name}{rest}" if at else f"{name}{rest}") in every
    ]
    return list(dict.fromkeys([*slips, *nearest(key, every)]))[:3]


def _has(node: Any, part: str) -> bool:
    if isinstance(node, ListConfig):
        return part.isdigit() and int(part) < len(node)
    return isinstance(node, DictConfig) and part in list(node)


def _takes(node: DictConfig, at: str, part: str) -> bool:
    if not _is_call(node):
        return False
    target = target_of(at, node)
    return takes_any(target) or part in parameters(target)


def _may_be_none(call: Node, key: str) -> bool:
    """Whether this is an argument that may be None, as far as is known; unannotated ones may."""
    if not _is_call(call):
        return False
    at, _, name = key.rpartition(".")
    parameter = parameters(target_of(at, call)).get(name)
    if parameter is None or parameter.default is None:
        return True
    is_annotated = parameter.annotation is not parameter.empty
    return not is_annotated or "None" in str(parameter.annotation)


def _child(node: Node, part: str) -> Any:
    index: Any = int(part) if isinstance(node, ListConfig) else part
    if OmegaConf.is_missing(node, index):
        return None
    try:
        return node[index]
    except OmegaConfBaseException:
        return None  # an interpolation that leads nowhere may be replaced


def _names(node: Any) -> list[str]:
    if isinstance(node, ListConfig):
        return [str(index) for index in range(len(node))]
    if not isinstance(node, DictConfig):
        return []
    names = dict.fromkeys(str(name) for name in node if name != "_target_")
    if _is_call(node):
        names |= dict.fromkeys(parameters(target_of("", node)))
    return list(names)


def _holds_mappings(node: Any) -> TypeGuard[ListConfig]:
    return isinstance(node, ListConfig) and any(isinstance(entry, DictConfig) for entry in node)


def _fields(node: Node, name: str, path: str) -> Iterator[str]:
    """What lies at ``name`` of ``node``: one field, or those of a mapping or a list of them."""
    # What is referred to has its own place.
    child = None if not _has(node, name) or _reference(node, name) else _child(node, name)
    if isinstance(child, DictConfig) or _holds_mappings(child):
        for below in _names(child):
            yield from _fields(child, below, f"{path}.{below}")
    else:
        yield path


def _live(cfg: DictConfig) -> set[str]:
    """The parts of a config that someone reads.

    A config file's imports are parts too: the backbone that a model was made of is a call that the
    engine never builds, unless the model refers to it.
    """
    names = [str(name) for name in cfg]
    dead = {name for name in names if name not in BUILT and _is_call(_child(cfg, name))}
    references = " ".join(_references(cfg)) if dead else ""
    return {
        name
        for name in names
        if name not in dead or re.search(rf"\${{\s*{re.escape(name)}\b", references)
    }


def _references(node: Node) -> Iterator[str]:
    for name in map(str, range(len(node)) if isinstance(node, ListConfig) else node):
        if reference := _reference(node, name):
            yield reference
        elif isinstance(child := _child(node, name), Node):
            yield from _references(child)


def _reference(node: Node, name: str) -> str:
    """The interpolation that stands at a place of a mapping or list; empty if none does."""
    index = int(name) if isinstance(node, ListConfig) else name
    if not OmegaConf.is_interpolation(node, index):
        return ""
    values: Any = OmegaConf.to_container(node, resolve=False)
    return str(values[index])


def _is_call(node: Any) -> TypeGuard[DictConfig]:
    return isinstance(node, DictConfig) and "_target_" in node
