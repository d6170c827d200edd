"""Checkpoints during training, and what a run that was ended leaves behind."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from detectron2.engine import hooks

from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

NOTE = "last_checkpoint"  # Detectron2's: its text is the name of the newest
_OF_A_RUN = (NOTE, "metrics.json")


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook for disks that may be full and runs that are resumed.

    A periodic checkpoint that cannot be written is warned of, and training goes on; the older ones
    stay. That of the last iteration must be written. ``max_to_keep`` counts the checkpoints of the
    run before it was resumed, too.
    """

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
                self.period,
            )


def set_aside(folder: Path) -> None:
    """Renames what a run would continue from or add to, before another one starts in its folder.

    Else a restart before the first checkpoint would continue the other run.
    """
    found = [file for name in _OF_A_RUN if (file := folder / name).is_file()]
    if not found:
        return
    taken = [_number(file) for name in _OF_A_RUN for file in _aside(folder, name)]
    for file in found:
        aside = file.with_stem(f"{file.stem}_{max(taken, default=0) + 1}")
        file.rename(aside)
        logger.warning("%s is of an earlier run and is %s now.", file, aside.name)


def newest_aside(folder: Path) -> Path | None:
    """The note on the newest checkpoint that :func:`set_aside` renamed last."""
    return max(_aside(folder, NOTE), key=_number, default=None)


def _aside(folder: Path, name: str) -> list[Path]:
    stem, suffix = Path(name).stem, Path(name).suffix
    return [file for file in folder.glob(f"{stem}_*{suffix}") if file.stem.split("_")[-1].isdigit()]


def _number(file: Path) -> int:
    return int(file.stem.split("_")[-1])


def drop_repeated(path: Path, start_iter: int) -> bool:
    """Removes what will be recorded again, and half a line, from ``metrics.json``.

    Args:
        path: the file; it may be missing.
        start_iter: first iteration that is run.

    Returns:
        Whether the iteration before is on record.
    """
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    kept = {line: n for line in lines if (n := _iteration(line)) is not None and n < start_iter}
    if len(kept) < len(lines):
        with replacing(path, "w") as file:
            file.writelines(f"{line}\n" for line in kept)
    return start_iter - 1 in kept.values()


def _iteration(line: str) -> int | None:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return None
