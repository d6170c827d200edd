"""A state dict on its way to the names of a model, which remembers where each tensor came from."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from vitadapter_d2.checkpoint.rename import Rules, rename_keys


class Draft:
    """Tensors under their present names, and how they got there.

    Attributes:
        tensors: present name -> tensor.
        sources: present name -> names in the file that it is made of.
        resized: present name -> sizes and method.
        given: present name -> what it was set to, the file having none.
        unused: name in the file -> why it is left out.

    Args:
        state_dict: names in the file to tensors.
    """

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self.tensors = dict(state_dict)
        self.sources: dict[str, tuple[str, ...]] = {name: (name,) for name in state_dict}
        self.resized: dict[str, str] = {}
        self.given: dict[str, str] = {}
        self.unused: dict[str, str] = {}

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Leaves out what matches a regular expression (``re.search``) of ``reasons``."""
        for pattern, reason in reasons.items():
            for name in [name for name in self.tensors if re.search(pattern, name)]:
                del self.tensors[name]
                for source in self.sources.pop(name):
                    self.unused[source] = reason

    def rename(self, rules: Rules) -> None:
        """Applies renaming rules; see :func:`rename_keys`."""
        self.apply(lambda tensors: rename_keys(tensors, rules), "")

    def put(self, name: str, tensor: Tensor, *made_of: str) -> None:
        """Sets a tensor that is computed from others, given by their present names."""
        sources = [source for part in made_of for source in self.sources[part]]
        self.tensors[name] = tensor
        self.sources[name] = tuple(dict.fromkeys(sources))

    def take(self, name: str) -> Tensor:
        """Removes an entry whose content has been ``put`` elsewhere."""
        del self.sources[name]
        return self.tensors.pop(name)

    def resize(self, name: str, tensor: Tensor, how: str) -> None:
        """Replaces a tensor by itself in another size."""
        old, new = tuple(self.tensors[name].shape), tuple(tensor.shape)
        self.tensors[name] = tensor
        self.resized[name] = f"{old} -> {new}, {how}"

    def apply(self, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], why: str) -> None:
        """Lets a function rename all tensors; where they went is seen from their identity.

        Args:
            convert: names to tensors -> the same; it may leave out, reshape and compute some.
            why: the reason for what it leaves out.
        """
        old, old_sources = self.tensors, self.sources
        by_object = {id(tensor): name for name, tensor in old.items()}
        by_memory = {_memory(tensor): name for name, tensor in old.items()}
        resized, given = self.resized, self.given
        self.tensors, self.sources, self.resized, self.given = convert(dict(old)), {}, {}, {}
        for name, tensor in self.tensors.items():
            origin = by_object.get(id(tensor), by_memory.get(_memory(tensor)))
            self.sources[name] = old_sources.get(origin or name, ())
            if origin is None:
                self.resized[name] = "computed in the conversion"
            elif origin in resized:
                self.resized[name] = resized[origin]
            if origin in given:
                self.given[name] = given[origin]
        kept = {source for sources in self.sources.values() for source in sources}
        left_out = {source for sources in old_sources.values() for source in sources} - kept
        self.unused |= dict.fromkeys(sorted(left_out), why)


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's values lie, which a view of it shares; None on the meta device."""
    return tensor.untyped_storage().data_ptr() or None
