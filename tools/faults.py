#!/usr/bin/env python
"""Provokes what goes wrong with trainings, for real, and says what became of each.

    python tools/faults.py
    python tools/faults.py --only killed truncated_jpeg

Every fault meets a training of its own: the quick start's model, some iterations on generated
images, on the CPU. Those that can be resumed are, and are compared with an undisturbed run. The
table is printed and, with all faults, written to docs/faults.md; the exit status is 1 if an outcome
was not as intended. It needs Linux.
"""

import argparse
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _faults_files as files
import _faults_processes as processes
import cv2
import torch
from _faults_runs import IMAGES, ITERATIONS, ROOT, stop_all
from _faults_scene import Account, Scene

from vitadapter_d2.data.datasets import ShapesSpec, generate
from vitadapter_d2.files import replacing

Fault = Callable[[Scene], None]
FAULTS: dict[str, tuple[str, Fault]] = {
    "killed": ("killed at a random step", processes.killed),
    "killed_in_save": ("killed while a checkpoint is written", processes.killed_in_save),
    "full_disk": ("disk full in a save", processes.full_disk),
    "truncated_checkpoint": ("last checkpoint truncated", processes.truncated_checkpoint),
    "flipped_bytes": ("last checkpoint corrupt", processes.flipped_bytes),
    "dangling_note": ("`last_checkpoint` points to nothing", processes.dangling_note),
    "no_good_checkpoint": ("all checkpoints corrupt", processes.no_good_checkpoint),
    "missing_image": ("image missing", files.missing_image),
    "missing_image_skipped": ("image missing, to be skipped", files.missing_image_skipped),
    "truncated_jpeg": ("JPEG truncated", files.truncated_jpeg),
    "truncated_jpeg_skipped": ("JPEG truncated, to be skipped", files.truncated_jpeg_skipped),
    "truncated_png": ("PNG truncated", files.truncated_png),
    "truncated_png_skipped": ("PNG truncated, to be skipped", files.truncated_png_skipped),
    "wrong_category": ("wrong category id", files.wrong_category),
    "repeated_image": ("image id given twice", files.repeated_image),
    "not_a_number": ("NaN loss", processes.not_a_number),
    "worker_killed": ("data loading process killed", processes.worker_killed),
    "rank_killed": ("rank killed", processes.rank_killed),
    "rank_killed_under_torchrun": (
        "rank killed under torchrun",
        processes.rank_killed_under_torchrun,
    ),
    "rank_restarted": ("rank killed under torchrun, restarted", processes.rank_restarted),
    "missing_weights": ("weight file missing", files.missing_weights),
    "other_weights": ("weight file of another model", files.other_weights),
    "web_page_for_weights": ("weight file is none", files.web_page_for_weights),
    "missing_test_image": ("image of the evaluation missing", files.missing_test_image),
    "truncated_test_image": ("image of the evaluation truncated", files.truncated_test_image),
    "asked_to_stop": ("SIGTERM", processes.asked_to_stop),
    "two_asked_to_stop": ("SIGTERM, two processes", processes.two_asked_to_stop),
    "interrupted": ("Ctrl-C", processes.interrupted),
    "two_interrupted": ("Ctrl-C, two processes", processes.two_interrupted),
}
_HEAD = ["fault", "done", "what happened", "how to go on", "as intended"]
_PAGE = ROOT / "docs" / "faults.md"


class Stage:
    """What the faults share: the data, and the undisturbed runs.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "shapes"
        make_data(self.data)
        self._whole: dict[int, Path] = {}
        self._locks = {1: threading.Lock(), 2: threading.Lock()}

    def whole(self, processes: int) -> Path:
        """Output folder of the undisturbed run, which is made when it is first asked for."""
        with self._locks[processes]:
            if processes not in self._whole:
                scene = self._scene(f"undisturbed_{processes}")
                ended = scene.start(processes=processes).end()
                if ended.status:
                    raise RuntimeError(f"the undisturbed run fails: {ended.last_error()}")
                self._whole[processes] = scene.output
        return self._whole[processes]

    def play(self, name: str) -> Account:
        """One fault."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        start, scene = time.perf_counter(), self._scene(name)
        try:
            FAULTS[name][1](scene)
        except Exception as error:  # the others are to be seen
            scene.account.wrong.append(f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - start
        verdict = "; ".join(scene.account.wrong) or "as intended"
        print(f"{name}: {verdict} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        return scene.account

    def _scene(self, name: str) -> Scene:
        folder = self.folder / name
        folder.mkdir()
        return Scene(folder, self.data, self.whole)


def make_data(folder: Path) -> None:
    """The generated set with JPEG images; label maps stay PNG."""
    generate(folder, ShapesSpec(train=IMAGES, val=1, size=64, seed=3), workers=0)
    for image in folder.glob("images/*/*.png"):
        cv2.imwrite(str(image.with_suffix(".jpg")), cv2.imread(str(image)))
        image.unlink()
    for path in folder.glob("annotations/panoptic_*.json"):
        images, rest = path.read_text().split('"annotations"', 1)
        path.write_text(images.replace(".png", ".jpg") + '"annotations"' + rest)


def page(accounts: dict[str, Account]) -> str:
    """The table with what is to be known about it."""
    rows = [[FAULTS[name][0], *account.cells()] for name, account in accounts.items()]
    table = [_HEAD, ["---"] * len(_HEAD), *rows]
    return (
        "# Faults tried\n\n"
        "`make faults` provokes these and writes this page (`tools/faults.py`, torch "
        f"{torch.__version__}, Python {platform.python_version()}). Each fault meets a training "
        f"of the quick start's model: {ITERATIONS} iterations on {IMAGES} images, on the CPU, a "
        "checkpoint every 3 iterations. Lines of the output are quoted as they were printed, "
        "without time and folder. *Same losses, same weights*: compared with an undisturbed run, "
        "the loss of every iteration is equal to the last digit and the checksum of the weights "
        "is equal, and `metrics.json` has every iteration once.\n\n"
        + "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--output", type=Path, help="file (docs/faults.md; with --only none)")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    parser.add_argument("--keep", type=Path, help="an empty folder for the runs, which is kept")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    if args.keep and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(f"--keep {args.keep} is not empty")
    args.output = args.output or (None if args.only else _PAGE)
    return args


def main() -> int:
    """Returns the exit status."""
    args = parse_arguments()
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the trainings.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = args.only or list(FAULTS)
    with tempfile.TemporaryDirectory(prefix="faults_") as temporary:
        folder = args.keep.resolve() if args.keep else Path(temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(folder)
        with ThreadPoolExecutor(args.jobs) as pool:
            try:
                accounts = dict(zip(names, pool.map(stage.play, names), strict=True))
            except KeyboardInterrupt:
                stop_all()
                return 128 + signal.SIGINT
    text = page(accounts)
    if args.output:
        with replacing(args.output, "w") as file:
            file.write(text)
    print(text, end="")
    return 1 if any(account.wrong for account in accounts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
