"""Saving and loading checkpoints, safely."""

import zlib
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from vitadapter_d2.checkpoint.conversion import OWN, convert_checkpoint, kind_for
from vitadapter_d2.checkpoint.reading import CheckpointError, local_path, read_file, state_dict_of
from vitadapter_d2.checkpoint.report import Report, some
from vitadapter_d2.checkpoint.transfer import move_adapter
from vitadapter_d2.files import replacing

# In a file: it holds what was trained, and buffers; the checksum of what it lacks.
_FLAG = "trained_only"


def _bare(model: nn.Module) -> nn.Module:
    is_parallel = isinstance(model, DistributedDataParallel | DataParallel)
    # The name that torch.compile gives: importing its class takes a second.
    inner = getattr(model, "module" if is_parallel else "_orig_mod", None)
    return model if inner is None else _bare(inner)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer; nothing is executed from a file, no file is left half-written.

    Checkpoints are written to a temporary name, flushed and renamed. Other projects' files are
    read too and converted, see :mod:`vitadapter_d2.checkpoint.conversion`.

    Args:
        model: the model; wrappers for several processes and of ``torch.compile`` are looked
            through.
        save_dir: folder to save in.
        save_to_disk: None saves in the main process alone.
        trained_only: save only parameters that require a gradient, and buffers; loaded onto a
            model that has the rest, of which a checksum is saved.
        **checkpointables: objects with a ``state_dict`` that are saved and loaded with the model.

    Attributes:
        report: what became of the last loaded file's tensors if it was converted, else None.
        untouched: parameters that the last loaded file neither holds nor was trained with.
        is_partial: whether that file is of ``trained_only``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        trained_only: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(_bare(model), save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.trained_only = trained_only
        self.report: Report | None = None
        self.untouched: list[str] = []
        self.is_partial = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<name>.pth``.

        Args:
            name: file name without suffix.
            **kwargs: extra entries.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        if self.trained_only:
            data[_FLAG] = self._checksum()
            for key in self._frozen():
                del data["model"][key]
        target = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", target)
        with replacing(target) as file:
            torch.save(data, file)
        self.tag_last_checkpoint(target.name)

    def _frozen(self) -> set[str]:
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {name for name, parameter in parameters if not parameter.requires_grad}

    def _checksum(self) -> int:
        """Of the frozen parameters, on whatever device they are."""
        state, checksum = self.model.state_dict(), 0
        for name in sorted(self._frozen()):
            values = state[name].cpu().contiguous().flatten().view(torch.uint8)
            checksum = zlib.crc32(values.numpy(), checksum)
        return checksum

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes the newest checkpoint; the note is replaced as a whole."""
        with replacing(Path(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint: one of these, or any that can be converted.

        Names of this project and of Detectron2 load as Detectron2 does it, what does not fit being
        logged. Everything else must fit as a whole.

        Args:
            path: file or URL; empty loads nothing.
            *args: as in ``DetectionCheckpointer.load``.
            **kwargs: as in ``DetectionCheckpointer.load``.

        Returns:
            Entries that nobody took.

        Raises:
            CheckpointError: no checkpoint, a damaged one, or one that could run code.
            ValueError: the file and the model do not agree.
            FileNotFoundError: there is no such file, or no way to its URL.
        """
        self.report, self.untouched, self.is_partial = None, [], False
        return super().load(str(local_path(path)) if path else path, *args, **kwargs)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continues from the newest checkpoint, or starts from ``path``.

        What a checkpoint of ``trained_only`` lacks is taken from ``path``.

        Args:
            path: file or URL; may be empty.
            resume: whether to look for a newest checkpoint.

        Returns:
            See :meth:`load`.
        """
        if self.trained_only and path and resume and self.has_checkpoint():
            self.load(path, checkpointables=[])
        return super().resume_or_load(path, resume=resume)

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_file(Path(filename))
        state_dict = state_dict_of(content, filename)
        # The names of a part, such as a head alone, may look like another project's.
        if _FLAG not in content and kind_for(state_dict, self.model) != OWN:
            conversion = convert_checkpoint(state_dict, self.model)
            self.report = conversion.report
            return {"model": conversion.state_dict}
        state_dict = move_adapter(state_dict, self.model)
        if not state_dict.keys() & self.model.state_dict().keys():
            raise CheckpointError(
                f"nothing in {filename} belongs to this model: it has names such as "
                f"{some(state_dict)}, the model {some(self.model.state_dict())}"
            )
        extras = content if "model" in content else {}
        return {**extras, "model": state_dict}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        parameters = [name for name, _ in self.model.named_parameters()]
        if self.report is not None:
            state_dict = checkpoint.pop("model")
            self.model.load_state_dict(state_dict, strict=False)
            self.untouched = [name for name in parameters if name not in state_dict]
            for line in self.report.lines():
                self.logger.info("%s", line)
            return None
        self.is_partial = _FLAG in checkpoint
        checksum = checkpoint.pop(_FLAG, None)
        incompatible = super()._load_model(checkpoint)
        # Whatever has another shape in the file is missing too.
        self.untouched = [name for name in parameters if name in incompatible.missing_keys]
        if self.is_partial and checksum == self._checksum():
            self._tell_kept(incompatible.missing_keys)
        return incompatible

    def _tell_kept(self, missing: list[str]) -> None:
        """Says what a file of trained parameters left as it was."""
        frozen = self._frozen()
        kept = [name for name in missing if name in frozen]
        self.logger.info(
            "The checkpoint holds what was trained; %d frozen parameters stay as they are: %s",
            len(kept),
            some(kept),
        )
        missing[:] = [name for name in missing if name not in frozen]
        self.untouched = [name for name in self.untouched if name not in frozen]
