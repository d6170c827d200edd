"""Checkpoints during training, and what a run that was ended leaves behind."""

import json
import logging
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.engine import hooks

from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

NOTE = "last_checkpoint"  # Detectron2's: its text is the name of the newest
_MARKS = (NOTE, "metrics.json")  # of a run that has begun
_OF_A_RUN = re.compile(
    r"last_checkpoint|metrics\.json|summary\.md|model_(\d+|final|best)\.pth|events\.out\..*"
)
_ASIDE = "earlier"


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook for disks that may be full and runs that are resumed.

    What is evaluated is saved first: an evaluation may outlast what a scheduler grants a job.
    A periodic checkpoint that cannot be written is warned of, and training goes on; the older ones
    stay. That of the last iteration must be written. ``max_to_keep`` counts the checkpoints of the
    run before it was resumed, too.

    Args:
        *args: as in fvcore.
        eval_period: iterations between evaluations, 0 for none but that at the end.
        **kwargs: as in fvcore.
    """

    period: int

    def __init__(self, *args: Any, eval_period: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_period = eval_period

    def before_train(self) -> None:
        """Finds the older checkpoints of the run."""
        super().before_train()
        pattern = re.compile(re.escape(self.file_prefix) + r"_(\d+)\.pth")
        files = sorted(Path(self.checkpointer.save_dir).glob(f"{self.file_prefix}_*.pth"))
        self.recent_checkpoints = [
            str(file)
            for file in files
            if (match := pattern.fullmatch(file.name)) and int(match[1]) < self.trainer.start_iter
        ]

    def step(self, iteration: int, **kwargs: Any) -> None:
        """Saves if it is time to.

        Raises:
            OSError: the last checkpoint of all cannot be written.
        """
        period: int = self.period
        if self.eval_period and (iteration + 1) % self.eval_period == 0:
            self.period = 1
        try:
            super().step(iteration, **kwargs)
        except OSError as error:
            if iteration >= self.trainer.max_iter - 1:
                raise
            logger.warning(
                "NO CHECKPOINT of iteration %d: %s. Training goes on, the next is tried %d "
                "iterations from here; the older ones are as they were.",
                iteration,
                error,
                period,
            )
        finally:
            self.period = period


def noted_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run by its note, whether or not it is there; None: no note."""
    note = folder / NOTE
    return folder / note.read_text().strip() if note.is_file() else None


def set_aside(folder: Path, others: Sequence[str] = ()) -> Path | None:
    """Moves what a run left into a folder of its own, before another one starts in its place.

    Else that one would, after a restart, continue it, fall back on its checkpoints, take its best
    for its own, and add to its curves.

    Args:
        folder: of the runs.
        others: names of files that are moved too.

    Returns:
        ``earlier_1`` or the next that is free in ``folder``; None if no run has begun there.
    """
    if not any((folder / name).is_file() for name in _MARKS):
        return None
    aside = next(path for n in count(1) if not (path := folder / f"{_ASIDE}_{n}").exists())
    aside.mkdir()
    # The note first: what is left without it is continued by nobody.
    for file in sorted(folder.iterdir(), key=lambda file: file.name != NOTE):
        if file.is_file() and (_OF_A_RUN.fullmatch(file.name) or file.name in others):
            file.rename(aside / file.name)
    logger.warning("Checkpoints and records of the earlier run in %s are in %s now.", folder, aside)
    return aside


def newest_aside(folder: Path) -> Path | None:
    """The folder of the earlier run that :func:`set_aside` made last, if it can be continued."""
    return next((path for path in _asides(folder) if (path / NOTE).is_file()), None)


def moved(file: str, folder: Path) -> str:
    """Where a file, or URL, is: in ``folder``, from which :func:`set_aside` may have moved it."""
    path = Path(file)
    if not file or "://" in file or path.exists() or path.parent.resolve() != folder.resolve():
        return file
    targets = (aside / path.name for aside in _asides(folder))
    return next((str(target) for target in targets if target.is_file()), file)


def _asides(folder: Path) -> list[Path]:
    """Newest first."""
    numbers = {path: path.name.removeprefix(f"{_ASIDE}_") for path in folder.glob(f"{_ASIDE}_*")}
    found = [path for path, number in numbers.items() if number.isdigit()]
    return sorted(found, key=lambda path: int(numbers[path]), reverse=True)


def drop_repeated(path: Path, start_iter: int, *, is_extended: bool = False) -> bool:
    """Removes what will be recorded again, and half a line, from ``metrics.json``.

    Args:
        path: the file; it may be missing.
        start_iter: first iteration that is run.
        is_extended: whether the run goes on behind its end. The evaluation there, recorded under
            the number of the first iteration that was not run, then moves to the last that was.

    Returns:
        Whether the iteration before is on record.
    """
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    kept: dict[int, dict[str, Any]] = {}
    for entry in filter(None, map(_entry, lines)):
        iteration = entry["iteration"]
        if is_extended and iteration == start_iter and "total_loss" not in entry:
            iteration = start_iter - 1
        if iteration < start_iter:
            kept.setdefault(iteration, {}).update({**entry, "iteration": iteration})
    if list(kept.values()) != [_entry(line) for line in lines]:
        with replacing(path, "w") as file:
            file.writelines(f"{json.dumps(entry, sort_keys=True)}\n" for entry in kept.values())
    return start_iter - 1 in kept


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        entry = {**entry, "iteration": int(entry["iteration"])}
    except (ValueError, KeyError, TypeError):
        return None
    # The console's guess stands alone where a run was ended behind its last checkpoint.
    return entry if entry.keys() - {"iteration", "eta_seconds"} else None
