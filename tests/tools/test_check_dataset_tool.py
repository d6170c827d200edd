import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_dataset.py"


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Runs the tool in this process; returns status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        argv = ["check_dataset.py", *arguments, "--workers", "0", "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name="__main__")
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize("name", ["tiny_val", "tiny_val_panoptic"])
def test_a_good_set_is_counted_and_drawn(check, tiny_root, tmp_path, name):
    status, out, err = check(name, "--images", "all", "--draw", "2")
    assert status == 0, out + err
    assert out.startswith(f"{name}: 8 images, ")
    assert "annotations per class, * = the rarest:" in out
    assert "plain disc" in out and "*" in out.split("rarest:")[1]
    assert "8 of 8 images read" in out and "nothing is wrong" in out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert "reading: 100%" in err


def test_what_is_wrong_gives_status_1(tiny_root, tmp_path):
    """In a process of its own, since the root is read when the data sets are registered."""
    root = tmp_path / "root"
    shutil.copytree(tiny_root, root / "shapes")
    (root / "shapes/images/val/000002.png").unlink()
    done = subprocess.run(
        [sys.executable, str(TOOL), "shapes_val", "--root", str(root), "--draw", "0"],
        env={**os.environ, "DETECTRON2_DATASETS": "elsewhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    *_, wrong, last = done.stdout.splitlines()
    missing = root / "shapes/images/val/000002.png"
    assert wrong == f"wrong: 1 x file that does not exist: {missing}"
    assert last == "something is wrong"


def test_wrong_arguments_are_told_in_one_line(check):
    status, out, err = check("shapes_vol")
    assert (status, out) == (1, "")
    assert err.startswith("no data set is registered as 'shapes_vol'; the nearest names are")
    assert "shapes_val" in err
    assert check("shapes_val", "--images", "-1")[0] == 2
