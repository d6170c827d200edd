"""Small trainings of tools/train_net.py, for tools/faults.py to disturb and to compare."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ITERATIONS, PERIOD, IMAGES, SEED = 8, 3, 8, 1  # period: of checkpoints
HANGS_AFTER_S = 300
_OVERRIDES = (
    "train.device=cpu",
    f"train.max_iter={ITERATIONS}",
    f"train.checkpointer.period={PERIOD}",
    "train.log_period=1",
    f"train.seed={SEED}",
    "dataloader.train.total_batch_size=2",
    "dataloader.evaluator=[]",
    "model.criterion.num_points=16",
)
_POLL_S = 0.002
_DECORATION = re.compile(r"\x1b\[[\d;]*m|^\[\d\d/\d\d [\d:]+ [^\]]*\]: |^(WARNING|ERROR) ")


@dataclass(frozen=True)
class Ended:
    """A training that is over.

    Attributes:
        status: as of ``subprocess``; None if it had to be stopped because it hung.
        output: of all its processes.
        errors: the part of it on stderr.
    """

    status: int | None
    output: str
    errors: str

    def line(self, pattern: str) -> str:
        """The first line of the output in which a regular expression is found, or nothing."""
        lines = (plain(line) for line in self.output.splitlines())
        return next((line for line in lines if re.search(pattern, line)), "")

    def last_error(self) -> str:
        """The last line on stderr."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return plain(lines[-1]) if lines else ""


def plain(line: str) -> str:
    """A line of a log without colours, time and level."""
    while (shorter := _DECORATION.sub("", line)) != line:
        line = shorter
    return line.strip()


@dataclass
class _State:
    trainings: list["Training"] = field(default_factory=list)
    is_over: bool = False


_state = _State()


def stop_all() -> None:
    """Ends all trainings; no other starts."""
    _state.is_over = True
    for training in _state.trainings:
        if training.process.poll() is None:
            training.signal_all(signal.SIGKILL)


class Training:
    """Processes of one training in ``output`` of a folder, with the data sets of ``datasets``.

    Args:
        folder: where it runs, so that it prints relative paths.
        *overrides: of the quick start's config, beside those that make it small.
        flags: of tools/train_net.py.
        launcher: arguments of Python before it.
    """

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        flags: tuple[str, ...] = (),
        launcher: tuple[str, ...] = (),
    ) -> None:
        if _state.is_over:
            raise RuntimeError("interrupted")
        self.folder, self.output = folder, folder / "output"
        number = len(list(folder.glob("stdout_*.txt")))
        self._logs = [folder / f"{stream}_{number}.txt" for stream in ("stdout", "stderr")]
        config = ("--config-file", "shapes/mask2former_vit_adapter_quickstart")
        arguments = (*config, *flags, "train.output_dir=output", *_OVERRIDES, *overrides)
        paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",  # sums in one order
            "DETECTRON2_DATASETS": "datasets",
            "PYTHONWARNINGS": "ignore",
        }
        with self._logs[0].open("w") as stdout, self._logs[1].open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, str(ROOT / "tools" / "train_net.py"), *arguments],
                cwd=folder,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        _state.trainings.append(self)

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives when it is true, or when the training has ended."""
        limit = time.monotonic() + HANGS_AFTER_S
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > limit:
                break
            time.sleep(_POLL_S)
        return found

    def wait_for(self, iteration: int) -> None:
        """Until an iteration is on record."""
        self.wait_until(lambda: iteration in iterations(self.output))

    def end(self) -> Ended:
        """Waits for the end; what hangs is stopped."""
        status: int | None
        try:
            status = self.process.wait(HANGS_AFTER_S)
        except subprocess.TimeoutExpired:
            status = None
        self.signal_all(signal.SIGKILL)  # also what has lost its parent
        self.process.wait()
        stdout, stderr = (log.read_text(errors="replace") for log in self._logs)
        return Ended(status, f"{stdout}\n{stderr}", stderr)

    def kill(self) -> None:
        """Of several processes the one that was started, which is not a trainer itself."""
        os.kill(self.process.pid, signal.SIGKILL)

    def signal_all(self, number: signal.Signals) -> None:
        """As a terminal does, to whoever is left."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def freeze(self) -> None:
        """Returns when the process stands still."""
        os.kill(self.process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        self.wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZX")

    def thaw(self) -> None:
        """Lets it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """Lets no file of the process grow beyond a number of bytes from now on."""
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))

    def children(self, mark: str) -> list[int]:
        """Process ids of those it has started whose command line has a mark, oldest first."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = sorted(map(int, path.read_text().split()))
        return [pid for pid in pids if mark in Path(f"/proc/{pid}/cmdline").read_text()]


def iterations(output: Path) -> list[int]:
    """What is on record in ``metrics.json``."""
    path, found = output / "metrics.json", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line)["iteration"])
        except ValueError:  # is being written
            break
    return found


@dataclass(frozen=True)
class Result:
    """What two runs must agree on: every bit of it is compared.

    Attributes:
        losses: the total loss of each iteration, not smoothed.
        checksum: CRC-32 of all weights.
        recorded: iterations in ``metrics.json``.
    """

    losses: tuple[float, ...]
    checksum: int
    recorded: tuple[int, ...]


def result(output: Path) -> Result | None:
    """Of a finished training; None if there is no last checkpoint."""
    path, checksum = output / "model_final.pth", 0
    if not path.is_file():
        return None
    content = torch.load(path, weights_only=True)
    for name, tensor in sorted(content["model"].items()):
        values = tensor.contiguous().flatten().view(torch.uint8).numpy()
        checksum = zlib.crc32(values, zlib.crc32(name.encode(), checksum))
    history = content["trainer"]["history"]["total_loss"]
    return Result(tuple(loss for loss, _ in history), checksum, tuple(sorted(iterations(output))))


def differences(found: Result | None, expected: Result | None) -> list[str]:
    """In words; empty for runs that are the same to the last bit."""
    if found is None or expected is None:
        return ["no finished run"]
    different = []
    if found.losses != expected.losses:
        pairs = enumerate(zip(found.losses, expected.losses, strict=False))
        where = [number for number, (one, other) in pairs if one != other]
        different.append(f"other losses ({f'from iteration {where[0]}' if where else 'fewer'})")
    if found.checksum != expected.checksum:
        different.append("other weights")
    if found.recorded != expected.recorded:
        different.append(f"metrics.json has the iterations {list(found.recorded)}")
    return different
