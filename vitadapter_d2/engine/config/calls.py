"""What the calls of a LazyConfig take, and whether a config calls everything as it should."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detectron2.config import instantiate as detectron2_instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitadapter_d2.engine.errors import ConfigError, nearest, told

# The parts of a config that the engine builds; whatever else a file holds may be half of a call.
BUILT = ("model", "optimizer", "lr_multiplier", "dataloader", "test")
# Arguments that the engine adds itself.
_GIVEN_LATER = {"optimizer.params": {"model"}, "test": {"model"}}
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def instantiate(cfg: Any) -> Any:
    """Detectron2's ``instantiate``, with errors that name the place in the config.

    Raises:
        ConfigError: what is called refuses its arguments, or does not take one of them.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(entry) for entry in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(entry) for entry in cfg]
    if not isinstance(cfg, Mapping) or "_target_" not in cfg:
        return detectron2_instantiate(cfg)
    arguments = {str(name): instantiate(cfg[name]) for name in cfg if name != "_target_"}
    path = _path(cfg) if isinstance(cfg, DictConfig) else "a call"
    target = target_of(path, {"_target_": instantiate(cfg["_target_"])})
    try:
        return target(**arguments)
    except Exception as error:
        if not isinstance(error, ConfigError) and _is_about(error, arguments):
            raise ConfigError(f"{path} ({name_of(target)}): {error}") from error
        if not getattr(error, "__notes__", None):  # the innermost call is what one looks for
            error.add_note(f"while {path} was built")
        raise


def _path(node: Any) -> str:
    """The dotted place of a node, as overrides write it."""
    parts: list[str] = []
    while node is not None and node._key() is not None:
        parts.insert(0, str(node._key()))
        node = node._get_parent()
    return ".".join(parts) or "a call"


def _is_about(error: Exception, arguments: Mapping[str, Any]) -> bool:
    """Whether the values, or the names that a call passes on, are what is wrong."""
    if isinstance(error, TypeError) and (found := _UNEXPECTED.search(str(error))):
        return found[1] in arguments
    return isinstance(error, ValueError | TypeError) and told(error) is not None


def check_calls(cfg: DictConfig) -> None:
    """Compares the arguments of every call that is built with the signature of what it calls.

    Raises:
        ConfigError: something that is called does not exist, takes no such argument or lacks one;
            the message names the place in the config.
    """
    for part in BUILT:
        for path, call in _calls(_child(cfg, part) if part in cfg else None, part):
            check_call(path, call)


def check_call(path: str, call: DictConfig) -> None:
    """:func:`check_calls` for one node that has a ``_target_``."""
    target = target_of(path, call)
    signature = _signature(target)
    if signature is None:
        return
    place = f"{path} ({name_of(target)})"
    given = {str(name) for name in call} - {"_target_"}
    if not takes_any(target):
        legal = parameters(target)
        for name in sorted(given - legal.keys()):
            similar = ", ".join(nearest(name, legal)) or "it takes none"
            raise ConfigError(f"{place} takes no argument {name!r}; nearest: {similar}")
    given |= _GIVEN_LATER.get(path, set())
    missing = [
        name
        for name, parameter in parameters(target).items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise ConfigError(f"{place} lacks the argument {', '.join(missing)}")


def target_of(path: str, call: Mapping[Any, Any]) -> Callable[..., Any]:
    """What a node calls.

    Raises:
        ConfigError: a name that cannot be imported, or nothing that can be called.
    """
    target = call["_target_"]
    if isinstance(target, str):
        try:
            found = locate(target)
        except Exception as error:  # whatever the module raises when it is imported
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}._target_ names {target}: {reason}") from error
        if found is None:
            raise ConfigError(f"{path}._target_ names {target}, which does not exist")
        target = found
    if not callable(target) and not isinstance(target, DictConfig):
        raise ConfigError(f"{path}._target_ is {target!r}, which cannot be called")
    return target


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that a config can give by name."""
    signature = _signature(target)
    if signature is None:
        return {}
    return {name: entry for name, entry in signature.parameters.items() if entry.kind in _KEYWORD}


def takes_any(target: Callable[..., Any]) -> bool:
    """Whether it takes arguments of any name, or does not say which it takes."""
    signature = _signature(target)
    if signature is None:
        return True
    kinds = {entry.kind for entry in signature.parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def name_of(target: Callable[..., Any]) -> str:
    """A class or function in messages."""
    return getattr(target, "__qualname__", None) or repr(target)


def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    """None where Python cannot know it: built-in classes, or a call that makes what is called."""
    if isinstance(target, DictConfig):
        return None
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _calls(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        keys: list[Any] = list(node)
        if "_target_" in node:
            yield path, node
    elif isinstance(node, ListConfig):
        keys = list(range(len(node)))
    else:
        return
    for key in keys:
        # What an interpolation refers to is met where it stands.
        if not OmegaConf.is_interpolation(node, key):
            yield from _calls(_child(node, key), f"{path}.{key}")


def _child(node: DictConfig | ListConfig, key: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:  # a value that is still missing
        return None
