"""tools/faults.py: its table, and two faults for real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from _faults_runs import Ended, Result, differences, plain  # noqa: E402
from _faults_scene import Account  # noqa: E402
from faults import FAULTS, page  # noqa: E402

WHOLE = Result(losses=(3.0, 2.0), checksum=7, recorded=(0, 1))


@pytest.mark.parametrize(
    ("found", "different"),
    [
        (WHOLE, []),
        (None, ["no finished run"]),
        (Result((3.0, 2.0000001), 7, (0, 1)), ["other losses (from iteration 1)"]),
        (Result((3.0,), 8, (0, 1)), ["other losses (fewer)", "other weights"]),
        (Result((3.0, 2.0), 7, (0, 1, 1)), ["metrics.json has the iterations [0, 1, 1]"]),
    ],
)
def test_runs_are_the_same_or_it_is_said_where_they_part(found, different):
    assert differences(found, WHOLE) == different


def test_lines_are_cut_from_the_output():
    log = "\x1b[5m\x1b[31mWARNING\x1b[0m \x1b[32m[11/21 09:58:31 d2.engine]: \x1b[0mdisk full"
    assert plain(log) == "disk full"
    ended = Ended(1, f"one\n{log}\n\n", "first\nlast\n \n")
    assert ended.line("full$") == "disk full"
    assert ended.line("empty") == ""
    assert ended.last_error() == "last"


def test_a_row_says_what_was_not_as_intended():
    account = Account("a | b", ["exit status 0"])
    account.check(True, "never said")
    assert account.cells() == ["a \\| b", "exit status 0", "", "yes"]
    account.check("", "it should fail")
    assert account.cells()[-1] == "**no**: it should fail"
    assert page({"killed": account}).splitlines()[-1] == (
        "| killed at a random step | a \\| b | exit status 0 |  | **no**: it should fail |"
    )


def test_the_committed_page_has_every_fault_as_intended():
    rows = [
        line.split(" | ")
        for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
        if line.startswith("| ")
    ][2:]
    assert [row[0].removeprefix("| ") for row in rows] == [title for title, _ in FAULTS.values()]
    assert {row[-1] for row in rows} == {"yes |"}


def test_two_faults(tmp_path):
    names = ("web_page_for_weights", "wrong_category")
    command = ["tools/faults.py", "--only", *names, "--output", str(tmp_path / "page.md")]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.md").read_text() == done.stdout
    head, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert head == "| fault | done | what happened | how to go on | as intended |"
    assert [row.split(" | ")[0][2:] for row in rows] == [FAULTS[name][0] for name in names]
    assert "`weights.pth is no checkpoint: it is a web page" in rows[0]
    assert "segment 2654435 of 000003.png has 77`" in rows[1]
    assert all(row.endswith("| yes |") for row in rows)
    assert str(ROOT) not in done.stdout and "/tmp" not in done.stdout
