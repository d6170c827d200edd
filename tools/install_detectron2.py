#!/usr/bin/env python3
"""Installs detectron2 into the Python that runs this, with nothing but the package index.

A detectron2 that works is left alone, whatever its version. Otherwise the unmodified Python sources
of v0.6 come from the index through your own pip settings, get the compatibility edits listed in
`_detectron2_edits.py`, and are installed as a pure-Python wheel. `panopticapi`, which panoptic
evaluation needs, comes with it. The standard library and pip are enough to run this.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _detectron2_fetch
from _detectron2_wheel import VERSION, SourceError, write_wheel

SDIST_NAME = "pb1-detectron2"
SDIST_VERSION = "0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
SDIST_FILE = f"{SDIST_NAME}-{SDIST_VERSION}.tar.gz"
# Declares numpy<2 and works on numpy 2: a plain installation would downgrade numpy.
PANOPTICAPI = "panopticapi-lite==0.2.0"
# The pip whose insides the download is known to work with, for when the user's differs.
KNOWN_PIP = "pip==25.3"
# What the models need of detectron2, so a half-written or wrongly compiled one shows here.
_PROBE = (
    "import detectron2, detectron2.engine, detectron2.evaluation; "
    "print(detectron2.__version__, 'in', detectron2.__path__[0])"
)
_START = time.monotonic()


class InstallError(Exception):
    """Carries one sentence that says what went wrong and what to do."""


def _say(message: str) -> None:
    print(f"[{time.monotonic() - _START:5.1f} s] {message}", flush=True)


def _run(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs this Python with the arguments; `-P` keeps a `detectron2` folder nearby out of sight."""
    return subprocess.run(
        [sys.executable, "-P", *command], env=env, text=True, capture_output=True, check=False
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no message"])[-1].rstrip(".")


def _module_exists(name: str) -> bool:
    return _run("-c", f"import importlib.util as u; assert u.find_spec({name!r})").returncode == 0


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None


def find_working() -> str | None:
    """Returns version and place of a detectron2 that imports, or None if there is none to keep.

    Raises:
        InstallError: if somebody else's detectron2 is there and does not import: replacing it is
            not for this tool to decide.
    """
    if not _module_exists("detectron2"):
        return None
    probe = _run("-c", _PROBE)
    if probe.returncode == 0:
        return probe.stdout.strip()
    if _installed_version() not in (None, VERSION):
        raise InstallError(
            f"detectron2 {_installed_version()} is installed but does not import "
            f"({_last_line(probe.stderr)}): repair it, or run '{sys.executable} -m pip uninstall "
            "detectron2' and then this again."
        )
    return None


def _check_ready() -> None:
    for module in ("torch", "torchvision"):
        if not _module_exists(module):
            raise InstallError(
                f"{module} is missing: run '{sys.executable} -m pip install torch torchvision' "
                "and then this again."
            )
    if not _module_exists("pip"):
        raise InstallError(
            f"pip is missing: run '{sys.executable} -m ensurepip --upgrade' and then this again."
        )


def _fetch_with(env: dict[str, str] | None, target: Path) -> bool:
    """Downloads with the pip that `env` leads to; False if that pip's insides differ."""
    script = str(Path(_detectron2_fetch.__file__).resolve())
    child = _run(script, SDIST_NAME, SDIST_VERSION, SDIST_SHA256, str(target), env=env)
    if child.returncode == _detectron2_fetch.NOT_AVAILABLE:
        raise InstallError(
            f"pip could not get {SDIST_NAME} {SDIST_VERSION} ({_last_line(child.stdout)}): check "
            "the network and the settings that 'pip config list' shows, or bring the file "
            f"{SDIST_FILE} and run this again with '--sdist FILE'."
        )
    return child.returncode == 0


def download(folder: Path) -> bytes:
    """Returns the source archive from the package index.

    Raises:
        InstallError: if neither the user's pip nor a known one can get it.
    """
    target = folder / SDIST_FILE
    _say(f"asking the package index for {SDIST_NAME} {SDIST_VERSION} (source code, 0.5 MB)")
    if _fetch_with(None, target):
        return target.read_bytes()
    _say(f"this pip works differently; fetching {KNOWN_PIP} into a temporary folder")
    pip = _run("-m", "pip", "install", "--no-deps", "--target", str(folder / "pip"), KNOWN_PIP)
    path = [str(folder / "pip"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    if pip.returncode != 0 or not _fetch_with(env, target):
        raise InstallError(
            f"neither this pip nor {KNOWN_PIP} could download {SDIST_FILE} "
            f"({_last_line(pip.stderr)}): fetch that file from your package index and run this "
            "again with '--sdist FILE'."
        )
    return target.read_bytes()


def check_sha256(data: bytes) -> None:
    """Raises InstallError unless the archive is, to the byte, the one the edits are for."""
    found = hashlib.sha256(data).hexdigest()
    if found != SDIST_SHA256:
        raise InstallError(
            f"{SDIST_FILE} has sha256 {found} instead of {SDIST_SHA256}, so it is not the "
            "published file and nothing was installed: check the package index or the file given "
            "by --sdist."
        )


def _pip_install(*arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", "install", "--no-input", *arguments]
    lines = []
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if not line.startswith("Requirement already satisfied"):
                print(line, end="", flush=True)
    if child.returncode != 0:
        raise InstallError(
            f"pip could not install {' '.join(Path(a).name for a in arguments)} "
            f"({_last_line(''.join(lines))}): check the network, the free disk space and the "
            "settings that 'pip config list' shows, then run this again."
        )


def install(sdist: Path | None) -> None:
    """Builds and installs the wheel and what it needs.

    Raises:
        InstallError: if any step fails.
    """
    _check_ready()
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as name:
        folder = Path(name)
        data = sdist.read_bytes() if sdist else download(folder)
        check_sha256(data)
        try:
            wheel = write_wheel(data, folder)
        except SourceError as error:
            raise InstallError(f"{error}: please report this; nothing was installed.") from error
        _say(f"installing {wheel.name} and what it needs")
        if _installed_version() == VERSION:  # ours and broken; pip would keep an equal version
            _run("-m", "pip", "uninstall", "--yes", "detectron2")
        # Four packages provide cv2, so the wheel cannot name one; the headless needs no libGL.
        opencv = () if _module_exists("cv2") else ("opencv-python-headless",)
        _pip_install(str(wheel), *opencv)
    probe = _run("-c", _PROBE)
    if probe.returncode != 0:
        raise InstallError(
            f"detectron2 was installed but does not import ({_last_line(probe.stderr)}): "
            f"'{sys.executable} tools/doctor.py' says what is missing."
        )
    _say(f"detectron2 {probe.stdout.strip()}")


def install_panopticapi() -> None:
    """Installs panopticapi where it is missing.

    Raises:
        InstallError: if pip fails.
    """
    if not _module_exists("panopticapi"):
        _say(f"installing {PANOPTICAPI}")
        _pip_install("--no-deps", PANOPTICAPI)


def main() -> int:
    """Returns the exit status: 0, or 1 after one sentence that says what to do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--sdist", type=Path, metavar="FILE", help=f"use this {SDIST_FILE}; download nothing"
    )
    args = parser.parse_args()
    try:
        working = find_working()
        if working:
            _say(f"detectron2 {working} works and is left alone")
        else:
            install(args.sdist)
        install_panopticapi()
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"install_detectron2: {error}; correct that and run this again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("install_detectron2: interrupted; run it again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
