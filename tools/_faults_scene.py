"""The place and the record of one fault of tools/faults.py."""

import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from _faults_runs import ROOT, TORCHRUN, Ended, Training, differences, result

PROCESSES = {
    1: {},
    2: {"flags": ("--num-gpus", "2", "--dist-url", "auto")},
}
_LONGEST = 400


@dataclass
class Account:
    """A row of the table.

    Attributes:
        done: what was done to provoke the fault.
        happened: what was seen.
        go_on: how to go on, and what came of it.
        wrong: what was not as intended.
    """

    done: str = ""
    happened: list[str] = field(default_factory=list)
    go_on: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, is_right: object, otherwise: str) -> None:
        """Notes what is not as intended."""
        if not is_right:
            self.wrong.append(otherwise)

    def cells(self) -> list[str]:
        """Of the table, without the fault's title."""
        verdict = f"**no**: {'; '.join(self.wrong)}" if self.wrong else "yes"
        texts = [self.done, "; ".join(self.happened), "; ".join(self.go_on), verdict]
        return [text.replace("|", "\\|").replace("\n", " ") for text in texts]


class Scene:
    """A folder with a data set of its own, in which one fault happens.

    Args:
        folder: an empty one.
        data: the generated data set.
        whole: gives the output folder of the undisturbed run on so many processes.
    """

    def __init__(self, folder: Path, data: Path, whole: Callable[[int], Path]) -> None:
        self.folder, self.whole = folder, whole
        self.output, self.data = folder / "output", folder / "datasets" / "shapes"
        shutil.copytree(data, self.data)
        self.account = Account()

    def start(self, *overrides: str, processes: int = 1, resume: bool = False) -> Training:
        """A training, on two processes if so wanted."""
        options = PROCESSES[processes]
        flags = (*options.get("flags", ()), *(("--resume",) if resume else ()))
        return Training(self.folder, *overrides, flags=flags)

    def start_by_torchrun(self, *options: str) -> Training:
        """A training on two processes."""
        return Training(self.folder, launcher=(*TORCHRUN, *options))

    def finished_run(self, last: str = "model_final.pth") -> None:
        """Takes over the undisturbed run's folder as it was when ``last`` had been written."""
        shutil.copytree(self.whole(1), self.output)
        newest = self.output / last
        for file in self.output.glob("model_*.pth"):
            if file.stat().st_mtime > newest.stat().st_mtime:
                file.unlink()
        (self.output / "last_checkpoint").write_text(last)

    def ends(
        self,
        run: Training,
        status: int,
        pattern: str = "",
        *,
        on: str = "stderr",
        quiet: bool = True,
    ) -> Ended:
        """Waits, and checks how a training ends and what it says.

        Args:
            run: the training.
            status: the intended one.
            pattern: of the intended sentence: the last one on stderr, or a line of the log.
            on: "stderr" or "log".
            quiet: whether a traceback is not intended; one of torchrun is not this project's, nor
                what a data loading process prints when its parent has been killed.
        """
        ended = run.end()
        self.account.happened.append(_ending(ended.status))
        self.account.check(ended.status == status, f"it should: {_ending(status)}")
        if pattern:
            said = ended.last_error() if on == "stderr" else ended.line(pattern)
            self.account.happened.append(f"`{self.shown(said)}`" if said else "nothing is said")
            self.account.check(re.search(pattern, said), f"no sentence with “{pattern}”")
        has_traceback = "Traceback (most" in ended.output
        self.account.check(not (quiet and has_traceback), "there is a traceback")
        return ended

    def resumes(self, how: str = "`--resume`", said: str = "", processes: int = 1) -> None:
        """Goes on, and compares the end with that of the undisturbed run.

        Args:
            how: what the user does.
            said: pattern of a line of the log.
            processes: 1 or 2.
        """
        ended = self.start(processes=processes, resume=True).end()
        start = ended.line(r"Starting training from iteration").rpartition(" ")[2]
        self.account.check(ended.status == 0, f"--resume: {_ending(ended.status)}")
        self.account.go_on.append(f"{how}: continues at iteration {start}" if start else how)
        if said:
            line = ended.line(said)
            self.account.go_on.append(f"`{self.shown(line)}`" if line else "nothing is said")
            self.account.check(line, f"no line with “{said}”")
        self.ends_as_undisturbed(processes)

    def ends_as_undisturbed(self, processes: int = 1) -> None:
        """Compares all losses, the weights and the record, bit by bit."""
        different = differences(result(self.output), result(self.whole(processes)))
        self.account.go_on.append(", ".join(different) or "same losses, same weights")
        self.account.wrong.extend(different)

    def shown(self, line: str) -> str:
        """A line of the output for the table: without this machine's paths."""
        for folder in (self.folder, ROOT, sys.prefix):
            line = line.replace(f"{folder}/", "")
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        return line.replace("`", "'")


def _ending(status: int | None) -> str:
    if status is None:
        return "it hangs"
    if status < 0:
        return f"it is ended by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else "it trains to the end"
