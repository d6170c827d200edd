"""The checkpoints of a run, of which the newest good one is continued."""

import re
import zipfile
import zlib
from pathlib import Path

from vitadapter_d2.checkpoint.reading import CheckpointError

_OF_A_RUN = re.compile(r"model_(\d{7,}|final)\.pth")


def newest_first(folder: Path, noted: Path) -> list[Path]:
    """Checkpoints in the order in which a run is to be continued from them.

    Args:
        folder: of the run.
        noted: the file that ``last_checkpoint`` names; the folder itself if it names none.

    Returns:
        The noted file, whether or not it is there; then the others of the folder by iteration.
    """
    others = [file for file in folder.glob("*.pth") if _OF_A_RUN.fullmatch(file.name)]
    others.sort(key=_iteration, reverse=True)
    return [noted, *(file for file in others if file != noted)]


def _iteration(file: Path) -> float:
    """For sorting; the final checkpoint is the newest of all."""
    number = file.stem.rpartition("_")[2]
    return int(number) if number.isdigit() else float("inf")


def check_sums(path: Path) -> None:
    """Raises CheckpointError if a checkpoint is not what was written; torch does not ask."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (wrong checksum of {damaged})")
