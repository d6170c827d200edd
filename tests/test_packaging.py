"""The source archive and the Makefile, where nothing else would notice what they leave out."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "csrc", "datasets", "tools", "vitadapter_d2")


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths in the source archive, made in a copy because setuptools writes into the tree."""
    copy = tmp_path_factory.mktemp("source")
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.png")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist"],
        cwd=copy,
        env={**os.environ, "VITADAPTER_BUILD_KERNELS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (copy / "dist").iterdir()
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


@pytest.mark.parametrize("folder", ["configs", "csrc", "tools", "vitadapter_d2"])
def test_the_source_archive_holds_every_source_file(archived, folder):
    kinds = {".cpp", ".cu", ".cuh", ".h", ".py"}
    files = {f.relative_to(ROOT) for f in (ROOT / folder).rglob("*") if f.suffix in kinds}
    assert files
    assert {file.as_posix() for file in files} <= archived


def test_the_source_archive_can_be_installed_and_holds_no_data(archived):
    assert {"LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "setup.py"} <= archived
    assert "datasets/make_shapes.py" in archived
    assert not any(name.startswith(("datasets/shapes", "output")) for name in archived)


def test_clean_removes_the_environment_that_was_named(tmp_path):
    command = ["make", "--no-print-directory", "--dry-run", "clean", f"VENV={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    removed = done.stdout.splitlines()[0].split()
    assert str(tmp_path) in removed and ".venv" not in removed
