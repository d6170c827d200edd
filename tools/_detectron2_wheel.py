"""Turns the published sources of detectron2 v0.6 into a pure-Python wheel for today's libraries.

A wheel is a zip archive with three text files about itself, so no build backend is needed and no
code of the sources runs.
"""

import base64
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from _detectron2_edits import ADDED_FILES, EDITS, GONE, PACKAGES, REQUIRES

VERSION = "0.6+py.pb1"
TAG = "py3-none-any"
WHEEL_NAME = f"detectron2-{VERSION}-{TAG}.whl"
_DIST_INFO = f"detectron2-{VERSION}.dist-info"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip knows: the same input, the same bytes


class SourceError(Exception):
    """The sources are not the ones that the edits were written for."""


def read_sdist(data: bytes) -> dict[str, bytes]:
    """Returns the regular files of a .tar.gz as `{path below its top folder: content}`."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or len(path.parts) < 2:
                    continue
                if path.is_absolute() or ".." in path.parts:
                    raise SourceError(f"the archive holds an unsafe path, {member.name!r}")
                content = archive.extractfile(member)
                assert content is not None
                files["/".join(path.parts[1:])] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"the archive cannot be read ({error})") from error
    return files


def apply_edits(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the files with every edit applied.

    Raises:
        SourceError: if a text to replace is not there as often as it should be, or a name that
            today's libraries lack is still there afterwards.
    """
    edited = dict(files)
    for edit in EDITS:
        if edit.path not in edited:
            raise SourceError(f"{edit.path} is missing")
        text = edited[edit.path].decode()
        if text.count(edit.old) != edit.count:
            raise SourceError(
                f"{edit.path} has {edit.old.strip()!r} {text.count(edit.old)} times instead of "
                f"{edit.count}"
            )
        edited[edit.path] = text.replace(edit.old, edit.new).encode()
    for path, text in ADDED_FILES.items():
        if path in edited:
            raise SourceError(f"{path} is already there")
        edited[path] = text.encode()
    _check_gone(edited)
    return edited


def _check_gone(files: dict[str, bytes]) -> None:
    pattern = re.compile("|".join(GONE), re.MULTILINE)
    for path, content in files.items():
        if path.endswith(".py") and path.startswith(("detectron2/", "projects/")):
            match = pattern.search(content.decode())
            if match:
                raise SourceError(f"{path} still has {match.group(0)!r}")


def _wheel_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Lays the sources out as they are installed and adds the metadata."""
    installed = {
        target + path.removeprefix(source): content
        for target, source in PACKAGES.items()
        for path, content in files.items()
        if path.startswith(source + "/")
    }
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: detectron2 v0.6, pure Python, with compatibility edits for current libraries",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    wheel = [
        "Wheel-Version: 1.0",
        "Generator: install_detectron2",
        "Root-Is-Purelib: true",
        f"Tag: {TAG}",
    ]
    installed[f"{_DIST_INFO}/LICENSE"] = files["LICENSE"]
    installed[f"{_DIST_INFO}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    installed[f"{_DIST_INFO}/WHEEL"] = ("\n".join(wheel) + "\n").encode()
    installed[f"{_DIST_INFO}/top_level.txt"] = b"detectron2\n"
    return installed


def _record(files: dict[str, bytes]) -> bytes:
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    lines.append(f"{_DIST_INFO}/RECORD,,\n")
    return "".join(lines).encode()


def write_wheel(sdist: bytes, folder: Path) -> Path:
    """Writes the wheel for the bytes of the sdist into `folder` and returns its path.

    Raises:
        SourceError: if the sources are not the ones that the edits were written for.
    """
    files = _wheel_files(apply_edits(read_sdist(sdist)))
    files[f"{_DIST_INFO}/RECORD"] = _record(files)
    path = folder / WHEEL_NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, date_time=_ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return path
