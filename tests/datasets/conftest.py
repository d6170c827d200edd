"""Scripts of the folder datasets/, run as a user runs them."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "datasets"


class Runner:
    """Runs a script in this process, which saves the import of torch and Detectron2."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, script: str, *arguments: str) -> "Done":
        argv = [script, *arguments, "--workers", "0"]
        self.monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        captured = self.capsys.readouterr()
        return Done(stop.value.code, captured.out, captured.err)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys) -> Runner:
    return Runner(monkeypatch, capsys)
