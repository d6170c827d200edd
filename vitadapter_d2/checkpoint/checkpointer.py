"""Saving and loading checkpoints, safely."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from vitadapter_d2.checkpoint.conversion import OWN, convert_checkpoint, kind_for
from vitadapter_d2.checkpoint.fetching import local_path
from vitadapter_d2.checkpoint.reading import CheckpointError, read_file, state_dict_of
from vitadapter_d2.checkpoint.report import Report, some
from vitadapter_d2.checkpoint.runs import check_sums, newest_first
from vitadapter_d2.checkpoint.sharded import gathered, is_sharded, whole
from vitadapter_d2.checkpoint.transfer import adapter_places, move_adapter
from vitadapter_d2.files import replacing

# In a file: it holds what was trained, and buffers; the checksum of what it lacks.
_FLAG = "trained_only"


def _bare(model: nn.Module) -> nn.Module:
    is_parallel = isinstance(model, DistributedDataParallel | DataParallel)
    # The name that torch.compile gives: importing its class takes a second.
    inner = getattr(model, "module" if is_parallel else "_orig_mod", None)
    return model if inner is None else _bare(inner)


@contextmanager
def write_errors() -> Iterator[None]:
    """Of torch.save, which has an error of its own when a file cannot be written."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


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
        other_classes: the model is one of other classes than the files that it starts from: of
            other projects' files too, tensors of another size may start fresh.
        other_model: it starts from a whole model of another kind too: of other projects' files
            what does not fit, or is lacking, starts fresh; the ViT-Adapter must fit.
        **checkpointables: objects with a ``state_dict`` that are saved and loaded with the model.

    Attributes:
        report: what became of the last loaded file's tensors if it was converted, else None.
        untouched: parameters that the last loaded file neither holds nor was trained with.
        lacking: of a file of ``trained_only`` those for which it has no tensor of any size.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        trained_only: bool = False,
        other_classes: bool = False,
        other_model: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(_bare(model), save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.trained_only = trained_only
        self.other_classes = other_classes
        self.other_model = other_model
        self.report: Report | None = None
        self.untouched: list[str] = []
        self.lacking: list[str] = []

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<name>.pth``.

        All processes call for a sharded model; the file is a plain one.

        Args:
            name: file name without suffix.
            **kwargs: extra entries.

        Raises:
            OSError: it cannot be written; whatever had the name before is there still.
        """
        takes_part = self.save_to_disk or is_sharded(self.model)
        if not self.save_dir or not takes_part:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        if self.trained_only:
            data[_FLAG] = self._checksum()
            for key in self._frozen():
                del data["model"][key]
        if is_sharded(self.model):
            data = gathered(data)
        if not self.save_to_disk:
            return
        target = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", target)
        with replacing(target) as file, write_errors():
            torch.save(data, file)
        self.tag_last_checkpoint(target.name)

    def _frozen(self) -> set[str]:
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {name for name, parameter in parameters if not parameter.requires_grad}

    def _checksum(self) -> int:
        """Of the frozen parameters, on whatever device they are."""
        state, checksum = self.model.state_dict(), 0
        for name in sorted(self._frozen()):
            values = whole(state[name]).cpu().contiguous().flatten().view(torch.uint8)
            checksum = zlib.crc32(values.numpy().data, checksum)
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
        self.report, self.untouched, self.lacking = None, [], []
        return super().load(str(local_path(path)) if path else path, *args, **kwargs)

    def load_whole(self, path: str, start: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint that may be one of ``trained_only``.

        Args:
            path: file or URL; may be empty.
            start: what its training started from, the source of what such a file lacks.
            **kwargs: as in :meth:`load`.

        Returns:
            See :meth:`load`.

        Raises:
            ValueError: see :meth:`load`; or parameters that were frozen in training are not those
                that it had.
        """
        extra = self.load(path, **kwargs)
        if self.lacking and start not in (None, "", path):
            self.load(str(start), checkpointables=[])  # training starts from plain weights
            extra = self.load(path, **kwargs)
        if self.lacking:
            raise ValueError(
                f"{path} holds what was trained; what was not, {some(self.lacking)}, must come "
                "from the file that the training started from: train.init_checkpoint names "
                f"{start or 'none'}"
            )
        return extra

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continues from the newest checkpoint, or starts from ``path``.

        If the newest one is damaged or gone, the next older one that can be read takes its place.
        What a checkpoint of ``trained_only`` lacks is taken from ``path``.

        Args:
            path: file or URL; may be empty.
            resume: whether to look for a newest checkpoint.

        Returns:
            See :meth:`load`.

        Raises:
            CheckpointError: there are checkpoints, and none can be read.
            ValueError: see :meth:`load_whole`.
        """
        if not (resume and self.has_checkpoint()):
            return self.load_whole(path, checkpointables=[])
        problems: list[str] = []
        for file in newest_first(Path(self.save_dir), Path(self.get_checkpoint_file())):
            try:
                check_sums(file)
                extra = self.load_whole(str(file), path)
            except (CheckpointError, FileNotFoundError) as error:
                problems.append(str(error))
                continue
            if problems:
                self.logger.warning("Resuming from %s: %s", file, "; ".join(problems))
            return extra
        raise CheckpointError(f"no checkpoint to resume from: {'; '.join(problems)}")

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_file(Path(filename))
        state_dict = state_dict_of(content, filename)
        # The names of a part, such as a head alone, may look like another project's.
        if _FLAG not in content and kind_for(state_dict, self.model) != OWN:
            is_partial_fine = self.other_classes or self.other_model
            try:
                conversion = convert_checkpoint(
                    state_dict, self.model, allow_partial=is_partial_fine
                )
            except ValueError as error:  # it knows no file name
                raise ValueError(f"{filename} cannot be used: {error}") from error
            self.report = conversion.report
            if self._lacks(self.report):
                raise ValueError(f"{filename} and the model do not agree: {self.report.problems()}")
            return {"model": conversion.state_dict}
        placed = move_adapter(state_dict, self.model)
        # Such as Detectron2's ResNets, whose names it matches by their ends.
        is_matched = isinstance(content, Mapping) and content.get("matching_heuristics")
        if not (is_matched or placed.keys() & self.model.state_dict().keys()):
            raise CheckpointError(
                f"nothing in {filename} belongs to this model: it has names such as "
                f"{some(placed)}, the model {some(self.model.state_dict())}"
            )
        extras = content if "model" in content else {}
        return {**extras, "model": placed}

    def _lacks(self, report: Report) -> bool:
        """Whether a converted file has too little to start from."""
        if not self.other_model:
            return bool(report.missing)
        places = adapter_places(self.model)
        return any(name.startswith(places) for name in [*report.missing, *report.misfits])

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        parameters = [name for name, _ in self.model.named_parameters()]
        if self.report is not None:
            state_dict = checkpoint.pop("model")
            self.model.load_state_dict(state_dict, strict=False)
            self.untouched = [name for name in parameters if name not in state_dict]
            for line in self.report.lines():
                self.logger.info("%s", line)
            self._tell_fresh(self.report.misfits)
            self._tell_missing(list(self.report.missing))
            return None
        is_partial, checksum = _FLAG in checkpoint, checkpoint.pop(_FLAG, None)
        incompatible = super()._load_model(checkpoint)
        # Whatever has another shape in the file is missing too.
        self.untouched = [name for name in parameters if name in incompatible.missing_keys]
        if is_partial and checksum == self._checksum():
            self._tell_kept(incompatible.missing_keys)
        elif is_partial:
            misfits = {name for name, *_ in incompatible.incorrect_shapes}
            self.lacking = [name for name in self.untouched if name not in misfits]
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """One line for each kind of what does not fit; the parent lists every name."""
        shapes = {
            name: f"{in_file} in the file, {in_model} in the model"
            for name, in_file, in_model in incompatible.incorrect_shapes
        }
        self._tell_fresh(shapes)
        if absent := len(incompatible.missing_keys):
            count = len(self.model.state_dict())
            self.logger.info("%d of the model's %d tensors are the file's.", count - absent, count)
        missing = [name for name in incompatible.missing_keys if name not in shapes]
        lacking = _filter_reused_missing_keys(self.model, missing)  # not if it has another name too
        self._tell_missing([name for name in missing if name in lacking])
        if unused := incompatible.unexpected_keys:
            told = len(unused), some(unused)
            self.logger.warning("%d tensors of the file have no place in this model: %s", *told)

    def _tell_missing(self, names: list[str]) -> None:
        if names:
            told = len(names), some(names)
            self.logger.warning("%d tensors that the file lacks start fresh: %s", *told)

    def _tell_fresh(self, shapes: Mapping[str, str]) -> None:
        if shapes:
            names = ", ".join(f"{name} ({how})" for name, how in shapes.items())
            self.logger.warning("%d tensors of another size start fresh: %s", len(shapes), names)

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
