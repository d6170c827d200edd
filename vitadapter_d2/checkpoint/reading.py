"""Reading checkpoints of any container, without running what is in them."""

import pickle
import re
import shutil
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from vitadapter_d2.checkpoint.fetching import local_path
from vitadapter_d2.checkpoint.rename import with_prefix
from vitadapter_d2.checkpoint.safe_globals import RefusedError, harmless_globals, read_arrays

# Where a dictionary keeps its weights, in the order in which the official loaders look.
_NESTING = ("state_dict", "model", "module", "teacher", "model_ema")
# Averaged weights beside them: under a name of their own, or under plain names with "ema_".
_EMA_NESTING = ("model_ema", "state_dict_ema", "teacher")
_WRAPPERS = ("module.", "_orig_mod.")

_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_NUMBERS = "biufc"  # kinds of arrays that become tensors
_READING = threading.RLock()


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or could run code."""


def read_checkpoint(path_or_url: str, trust: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Args:
        path_or_url: a file, or a URL that is downloaded once: what torch saves in its old or new
            format, an ordinary zip archive with one such file, ``.npz``, ``.safetensors``, a
            pickle of arrays.
        trust: also read what could run code.
        ema: take averaged weights instead of the plain ones.

    Returns:
        Names to tensors on the CPU, without the prefixes of wrappers.

    Raises:
        DownloadError: the URL cannot be fetched.
        FileNotFoundError: there is no such file.
        CheckpointError: no checkpoint, a damaged one, one that could run code, or one without
            averaged weights although these are wanted.
    """
    return state_dict_of(read_file(local_path(path_or_url), trust), path_or_url, ema)


def read_file(path: Path, trust: bool = False, title: str | None = None) -> Any:
    """What a file holds, as it was saved; its first bytes tell the container.

    Args:
        path: the file.
        trust: as in :func:`read_checkpoint`.
        title: what messages call it; None for the path.

    Raises:
        CheckpointError: see :func:`read_checkpoint`.
    """
    title = title or str(path)
    with path.open("rb") as file:
        head = file.read(64)
    # Its first eight bytes are a length: they may look like anything.
    is_safetensors = head[8:9] == b"{"
    with _named_damage(title):
        if is_safetensors:
            return safetensors.torch.load_file(path)
        if head.startswith(b"PK"):
            return _read_zip(path, trust, title)
        if _LEGACY_TORCH in head:
            return _read_torch(path, trust, title)
        if head.startswith(b"\x80"):
            return _read_pickle(path, trust, title)
    raise CheckpointError(f"{title} is no checkpoint: {_describe(head)}")


def _describe(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, so the download went wrong; delete it and fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    return f"its first bytes are {head[:8]!r}"


def _read_zip(path: Path, trust: bool, title: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        # What macOS adds to its archives.
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
        is_torch = any(name.endswith("/data.pkl") for name in names)
        if is_torch and any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                f"{title} is a program (TorchScript), no checkpoint: save the state_dict of its "
                "model with torch.save"
            )
        if is_torch:
            return _read_torch(path, trust, title)
        members = [name for name in names if name.endswith((".pth", ".pth.tar", ".pt"))]
        if not members and any(name.endswith(".npy") for name in names):
            return _read_npz(path, title)
        if len(members) != 1:
            raise CheckpointError(
                f"{title} is an archive of {len(members)} checkpoints, it must have one; "
                f"it holds {', '.join(names[:5]) or 'nothing'}"
            )
        with tempfile.TemporaryDirectory() as folder:
            _check_room(folder, archive.getinfo(members[0]), title)
            inner = Path(archive.extract(members[0], folder))
            return read_file(inner, trust, f"{members[0]} in {title}")


def _read_npz(path: Path, title: str) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return {
                name: _tensor(array) for name in arrays.files if _is_numeric(array := arrays[name])
            }
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
            raise CheckpointError(
                f"{title} holds Python objects beside its arrays, which can run any code when they "
                "are read; save the arrays alone"
            ) from None


def _is_numeric(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS
    return is_array or isinstance(value, Tensor)


def _tensor(values: Any) -> Tensor:
    """Of an array in any order of bytes."""
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return torch.as_tensor(values)


def _check_room(folder: str, member: zipfile.ZipInfo, title: str) -> None:
    """An archive may be small and hold much."""
    free = shutil.disk_usage(folder).free
    if member.file_size > free:
        raise CheckpointError(
            f"{title} unpacks to {member.file_size >> 20} MiB, {folder} has room for "
            f"{free >> 20}: set TMPDIR to a larger disk, if its source is to be trusted"
        )


def _read_torch(path: Path, trust: bool, title: str) -> Any:
    with harmless_allowed():
        try:
            return torch.load(path, map_location="cpu", weights_only=not trust)
        except pickle.UnpicklingError as error:
            refused = _refused(str(error))
            if not refused:
                raise
            raise CheckpointError(
                f"{title} holds more than tensors ({refused}), which could run code when it is "
                "read; if you trust where it comes from, convert it with "
                "tools/convert_checkpoint.py --trust"
            ) from None


@contextmanager
def harmless_allowed() -> Iterator[None]:
    """Torch has one list for the whole process: threads take turns, and the user's entries stay."""
    with _READING:
        before = torch.serialization.get_safe_globals()
        try:
            with torch.serialization.safe_globals(harmless_globals()):
                yield
        finally:
            torch.serialization.add_safe_globals(before)


def _read_pickle(path: Path, trust: bool, title: str) -> Any:
    """Detectron2's zoo and facebookresearch's Mask2Former: arrays, pickled without torch."""
    with path.open("rb") as file:
        if trust:
            return pickle.load(file, encoding="latin1")
        try:
            return read_arrays(file)
        except RefusedError as error:
            raise CheckpointError(
                f"{title} is a pickle, which can run any code when it is read, and holds more than "
                f"arrays ({error}); if you trust where it comes from, convert it with "
                "tools/convert_checkpoint.py --trust"
            ) from None


def _refused(message: str) -> str:
    """What torch's restricted unpickler did not allow; empty if it met damage."""
    names = re.findall(r"GLOBAL ([\w.]+\.\w+)|function ([\w.]+)|([\w.]+) whose module", message)
    other = re.search(r"(Unsupported operand .*|Trying to .*|Can only .*)", message)
    return ", ".join(sorted({part for found in names for part in found if part})) or (
        other[1].strip() if other else ""
    )


@contextmanager
def _named_damage(title: str) -> Iterator[None]:
    """Errors of the readers become one sentence; which they raise differs with the damage."""
    try:
        yield
    except (CheckpointError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        # Of torch's pages of advice, the sentence that says what happened.
        told = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = (told.strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{title} is damaged or incomplete ({reason}); fetch it again") from (
            error
        )


def state_dict_of(content: Any, title: str, ema: bool = False) -> dict[str, Tensor]:
    """Finds the weights in what a checkpoint holds.

    Args:
        content: a dictionary that may nest its weights, or a module.
        title: what messages call the file.
        ema: as in :func:`read_checkpoint`.

    Returns:
        See :func:`read_checkpoint`.

    Raises:
        CheckpointError: there are no tensors, or no averaged ones.
    """
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{title} holds a {type(content).__name__}, no dictionary of tensors")
    nested, is_averaged = _unnest(content, ema)
    tensors = {
        name: _tensor(value)
        for name, value in nested.items()
        if isinstance(name, str) and _is_numeric(value)
    }
    if not tensors:
        entries = ", ".join(map(str, list(nested)[:5]))
        raise CheckpointError(f"{title} holds no tensors; its entries are: {entries or 'none'}")
    tensors = _without_prefixes(tensors)
    if ema and not is_averaged:
        tensors = _averaged(tensors, title)
    # Versions of modules, which some read their entries by.
    if (versions := getattr(nested, "_metadata", None)) and tensors.keys() <= nested.keys():
        tensors = OrderedDict(tensors)
        tensors._metadata = versions  # type: ignore[attr-defined]
    return tensors


def _unnest(content: Mapping[str, Any], ema: bool) -> tuple[Mapping[str, Any], bool]:
    model, averages = content.get("model"), content.get("ema")
    if ema and isinstance(model, Mapping) and isinstance(averages, Mapping):
        return {**model, **averages}, True  # of this project: what is frozen has no average
    is_averaged = False
    opened: list[Mapping[str, Any]] = []
    while not any(content is one for one in opened):  # a dictionary may hold itself
        opened.append(content)
        order = (*_EMA_NESTING, *_NESTING) if ema else _NESTING
        key = next((key for key in order if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        is_averaged |= key in _EMA_NESTING
        content = content[key]
        if key == "teacher":  # of DINO's training files, beside its heads
            content = with_prefix(content, "backbone.") or content
    return content, is_averaged


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cuts off what wrappers put in front; of MoBY's file only the encoder is kept."""
    while prefix := next(
        (one for one in _WRAPPERS if all(name.startswith(one) for name in tensors)), ""
    ):
        tensors = with_prefix(tensors, prefix)
    encoder = with_prefix(tensors, "encoder.")
    return encoder if "patch_embed.proj.weight" in encoder else tensors


def _averaged(tensors: dict[str, Tensor], title: str) -> dict[str, Tensor]:
    """Averaged weights of mmcv's hook: "ema_" and the plain name with every dot a low line."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("ema_")}
    flat = {name: f"ema_{name.replace('.', '_')}" for name in plain}
    if not any(averaged in tensors for averaged in flat.values()):
        raise CheckpointError(f"{title} holds no averaged weights, which --ema asks for")
    return {name: tensors.get(flat[name], tensor) for name, tensor in plain.items()}
