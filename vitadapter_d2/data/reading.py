"""What to do in training with images that cannot be read: stop, or take another one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from detectron2.data import detection_utils
from PIL import Image
from torch.utils.data import get_worker_info

from vitadapter_d2.labels import read_labels

Record = dict[str, Any]
Policy = Literal["raise", "skip"]
POLICIES = ("raise", "skip")
LABEL_KEYS = ("sem_seg_file_name", "pan_seg_file_name")
"""Keys of a record that name label maps; a mapper has ``label_keys``, those that it reads."""
_MAX_WORKERS = 1024
_ORIENTATION_TAG, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # of EXIF

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Why a file of a record is of no use.

    Attributes:
        kind: one of a few short texts, such as ``"missing image"``.
        path: the file.
        detail: what the decoder said, or both sizes.
    """

    kind: str
    path: str
    detail: str = ""

    def __str__(self) -> str:
        """``"truncated or damaged image a.jpg: image file is truncated"``."""
        return f"{self.kind} {self.path}" + (f": {self.detail}" if self.detail else "")


def image_size(path: str | Path) -> tuple[int, int]:
    """Return width and height from an image's header, turned as Detectron2 will turn it.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no image or a damaged one.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_sideways = image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the image {path} does not exist") from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise ValueError(f"the image {path} cannot be read: {error}") from error
    return (height, width) if is_sideways else (width, height)


def find_problem(
    record: Record, allow_palette: bool = False, label_keys: Sequence[str] = LABEL_KEYS
) -> Problem | None:
    """Read the files of a record, as a mapper does, and return the first problem.

    Args:
        record: with ``file_name`` and perhaps ``height``, ``width`` and some of ``LABEL_KEYS``.
        allow_palette: see ``read_labels``.
        label_keys: of the label maps that are read.
    """
    path = record["file_name"]
    try:
        height, width = detection_utils.read_image(path, format="RGB").shape[:2]
    except FileNotFoundError:
        return Problem("missing image", path)
    except Exception as error:  # as above
        return Problem("damaged image", path, str(error))
    expected = record.get("height", height), record.get("width", width)
    if expected != (height, width):
        detail = f"{width} x {height} pixels, its annotations say {expected[1]} x {expected[0]}"
        return Problem("wrong size of image", path, detail)
    return _label_problem(record, (height, width), allow_palette, label_keys)


def _label_problem(
    record: Record, size: tuple[int, int], allow_palette: bool, label_keys: Sequence[str]
) -> Problem | None:
    for key in label_keys:
        path = record.get(key)
        if path is None:
            continue
        try:
            if key == "sem_seg_file_name":
                shape = read_labels(path, allow_palette).shape
            else:
                shape = detection_utils.read_image(path, format="RGB").shape[:2]
        except FileNotFoundError:
            return Problem("missing label map", path)
        except Exception as error:  # as above
            return Problem("unreadable label map", path, str(error))
        if tuple(shape) != size:
            detail = f"{shape[1]} x {shape[0]} pixels, its image has {size[1]} x {size[0]}"
            return Problem("wrong size of label map", path, detail)
    return None


class Tolerant:
    """A mapper that names the file it could not read, and stops or goes on without it.

    An error that has another reason than the record's files, such as a class out of range, is
    never skipped. What a mapper does to the image has no part in the decision: a file that is read
    once is read always.

    Args:
        mapper: record -> training dict. Of one without ``label_keys`` any label map may be the
            reason of an error.
        policy: ``"raise"``, or ``"skip"``: return None, which tells Detectron2's and this project's
            train loaders to take another sample.

    Raises:
        ValueError: if the policy is unknown.
    """

    def __init__(self, mapper: Callable[[Record], Any], policy: Policy = "raise") -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        self.mapper = mapper
        self.policy = policy
        self._logged: set[str] = set()
        # One counter per worker, in memory that all of them and the trainer see.
        self._counts = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()

    @property
    def skipped(self) -> int:
        """How many samples were skipped so far, in all workers of this process."""
        return int(self._counts.sum())

    def __call__(self, record: Record) -> Any | None:
        """Apply the mapper.

        Returns:
            What the mapper gives; None for a sample that is skipped.

        Raises:
            ValueError: if a file cannot be read, or has another size than its record says; with
                ``policy="raise"`` only.
        """
        try:
            return self.mapper(record)
        except Exception as error:  # what the decoders raise on a damaged file is not documented
            has_file = isinstance(record, dict) and "file_name" in record
            label_keys = getattr(self.mapper, "label_keys", LABEL_KEYS)
            problem = find_problem(record, True, label_keys) if has_file else None
            if problem is None:
                raise
            if self.policy == "raise":
                raise ValueError(str(problem)) from error
            self._note(problem)
            return None

    def _note(self, problem: Problem) -> None:
        worker = get_worker_info()
        self._counts[0 if worker is None else worker.id % _MAX_WORKERS] += 1
        if problem.path not in self._logged:
            self._logged.add(problem.path)
            logger.error("skipped a sample, %d so far: %s", self.skipped, problem)
