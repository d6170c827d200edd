import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from _detectron2_edits import ADDED_FILES, EDITS, GONE, Edit  # noqa: E402
from _detectron2_wheel import VERSION, SourceError, apply_edits, write_wheel  # noqa: E402
from install_detectron2 import SDIST_NAME, SDIST_SHA256, SDIST_VERSION  # noqa: E402

ARCHIVE = f"{SDIST_NAME}-{SDIST_VERSION}.tar.gz"


def _sources() -> dict[str, bytes]:
    """Files that hold every text to replace, as often as it should be, where it should be."""
    texts: dict[str, str] = defaultdict(str)
    for edit in EDITS:
        texts[edit.path] += (edit.old + "\n") * edit.count
    texts |= {
        "LICENSE": "Apache License\n",
        "setup.py": "raise SystemExit('setup.py ran')\n",
        "detectron2/__init__.py": '__version__ = "0.6"\n',
        "detectron2/model_zoo/configs/Base-RCNN-FPN.yaml": "MODEL: {}\n",
        "projects/PointRend/point_rend/__init__.py": "",
        "projects/DeepLab/deeplab/__init__.py": "",
        "tools/train_net.py": "",
    }
    return {path: text.encode() for path, text in texts.items()}


def _sdist(files: dict[str, bytes], top: str = "pb1-detectron2-0.6") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


# --- the wheel ---


def test_every_edit_is_applied() -> None:
    edited = apply_edits(_sources())
    for edit in EDITS:
        assert edited[edit.path].decode().count(edit.new) >= edit.count
    assert edited.keys() == _sources().keys() | ADDED_FILES.keys()
    text = b"\n".join(edited.values()).decode()
    assert not re.search("|".join(GONE), text)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.path}-{EDITS.index(edit)}")
def test_a_text_that_is_not_there_as_often_as_it_should_be_is_an_error(edit: Edit) -> None:
    files = _sources()
    files[edit.path] = files[edit.path].replace(edit.old.encode(), b"", 1)
    with pytest.raises(SourceError, match=re.escape(edit.path)):
        apply_edits(files)


def test_a_missing_file_is_an_error() -> None:
    files = _sources()
    del files["detectron2/engine/launch.py"]
    with pytest.raises(SourceError, match=r"detectron2/engine/launch.py is missing"):
        apply_edits(files)


def test_a_removed_name_in_any_other_file_is_an_error() -> None:
    files = _sources() | {"detectron2/data/other.py": b"mask = np.zeros(3, np.bool)\n"}
    with pytest.raises(SourceError, match=r"detectron2/data/other.py still has 'np.bool'"):
        apply_edits(files)


def test_unsafe_paths_and_broken_archives_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unsafe path"):
        write_wheel(_sdist({"../../etc/passwd": b""}), tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        write_wheel(_sdist(_sources())[:-200], tmp_path)


def test_the_wheel_is_the_same_to_the_byte_each_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = write_wheel(_sdist(_sources()), tmp_path)
    second = write_wheel(_sdist(_sources()), tmp_path / "again")
    assert first.name == f"detectron2-{VERSION}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()


def test_pip_installs_the_wheel_with_the_projects_inside(tmp_path: Path) -> None:
    wheel = write_wheel(_sdist(_sources()), tmp_path)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
        + ["--target", str(target), str(wheel)],
        check=True,
        env=os.environ | {"PIP_NO_COMPILE": "no"},  # pip's spelling of "do not compile"
    )
    assert (target / "detectron2/model_zoo/configs/Base-RCNN-FPN.yaml").is_file()
    assert (target / "detectron2/projects/point_rend/__init__.py").is_file()
    assert (target / "detectron2/projects/panoptic_deeplab/post_processing.py").is_file()
    assert sorted(path.name for path in target.iterdir() if path.is_dir()) == [
        "detectron2",
        f"detectron2-{VERSION}.dist-info",
    ]
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"detectron2-{VERSION}.dist-info/METADATA").decode()
    assert "Requires-Dist: pycocotools>=2.0.2\n" in metadata


# --- the tool, as users run it ---


class _Bare:
    """An environment with pip and nothing else, and a folder in front of it for fakes."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv" / "bin" / "python"
        self.site = folder / "site"
        self.site.mkdir()
        (self.site / "pip").symlink_to(Path(pip.__file__).parent)
        self.add("torch")
        self.add("torchvision")

    def add(self, module: str, text: str = "") -> None:
        path = self.site / module.replace(".", "/") / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {key: os.environ[key] for key in os.environ if not key.startswith("PIP_")}
        environment |= {"PYTHONPATH": str(self.site), "PIP_CONFIG_FILE": os.devnull}
        environment |= {"PIP_RETRIES": "0", "PIP_TIMEOUT": "2", **env}
        return subprocess.run(
            [str(self.python), str(TOOLS / script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )

    def sentence(self, *arguments: str, **env: str) -> str:
        """The one sentence that a failing run ends in."""
        run = self.run("install_detectron2.py", *arguments, **env)
        assert run.returncode == 1, run.stdout + run.stderr
        lines = run.stderr.splitlines()
        assert len(lines) == 1, run.stderr
        assert lines[0].startswith("install_detectron2: ")
        assert lines[0].endswith(".")
        return lines[0]


@pytest.fixture
def bare(tmp_path: Path) -> _Bare:
    return _Bare(tmp_path)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index on this machine that offers the archive; yields its address."""
    page = tmp_path / "www" / "simple" / SDIST_NAME
    page.mkdir(parents=True)
    (page / ARCHIVE).write_bytes(_sdist(_sources()))
    (page / "index.html").write_text(f'<a href="{ARCHIVE}">{ARCHIVE}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        server.shutdown()


def test_the_archive_comes_from_the_users_index_and_none_of_its_code_runs(
    bare: _Bare, index: str, tmp_path: Path
) -> None:
    target = tmp_path / "fetched"
    arguments = (SDIST_NAME, SDIST_VERSION, SDIST_SHA256, str(target))
    # A setting that would hide source archives must not.
    env = {"PIP_INDEX_URL": index, "PIP_ONLY_BINARY": ":all:"}
    run = bare.run("_detectron2_fetch.py", *arguments, **env)
    assert run.returncode == 0, run.stdout + run.stderr
    assert target.read_bytes() == (tmp_path / "www/simple" / SDIST_NAME / ARCHIVE).read_bytes()


def test_another_archive_under_the_same_name_is_refused(bare: _Bare, index: str) -> None:
    sentence = bare.sentence(PIP_INDEX_URL=index)
    assert "is not the published file and nothing was installed" in sentence
    assert SDIST_SHA256 in sentence


def test_another_file_given_by_hand_is_refused(bare: _Bare, tmp_path: Path) -> None:
    file = tmp_path / ARCHIVE
    file.write_bytes(_sdist(_sources()))
    sentence = bare.sentence("--sdist", str(file))
    assert hashlib.sha256(file.read_bytes()).hexdigest() in sentence


def test_a_file_that_is_not_there_is_one_sentence(bare: _Bare) -> None:
    assert "No such file" in bare.sentence("--sdist", "nowhere.tar.gz")


@pytest.mark.parametrize("env", [{"PIP_INDEX_URL": "http://127.0.0.1:9/"}, {"PIP_NO_INDEX": "1"}])
def test_no_network_is_one_sentence(bare: _Bare, env: dict[str, str]) -> None:
    sentence = bare.sentence(**env)
    assert "pip could not get pb1-detectron2 0.6" in sentence
    assert "--sdist FILE" in sentence


def test_no_pip_is_one_sentence(bare: _Bare) -> None:
    (bare.site / "pip").unlink()
    assert "-m ensurepip --upgrade" in bare.sentence()


def test_a_pip_that_works_differently_and_cannot_bring_another_is_one_sentence(
    bare: _Bare,
) -> None:
    (bare.site / "pip").unlink()
    bare.add("pip")
    assert "neither this pip nor pip==" in bare.sentence()


def test_no_torch_is_one_sentence(bare: _Bare) -> None:
    (bare.site / "torchvision" / "__init__.py").unlink()
    (bare.site / "torchvision").rmdir()
    assert "-m pip install torch torchvision" in bare.sentence()


def test_a_detectron2_that_works_is_left_alone(bare: _Bare) -> None:
    bare.add("detectron2", "__version__ = '0.8.dev0'")
    for module in ("detectron2.engine", "detectron2.evaluation", "panopticapi"):
        bare.add(module)
    run = bare.run("install_detectron2.py", PIP_NO_INDEX="1")
    assert run.returncode == 0, run.stderr
    assert "detectron2 0.8.dev0" in run.stdout
    assert "works and is left alone" in run.stdout


def test_somebodys_detectron2_that_does_not_import_is_not_replaced(bare: _Bare) -> None:
    bare.add("detectron2", "raise ImportError('_C: undefined symbol')")
    info = bare.site / "detectron2-0.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.7\n")
    sentence = bare.sentence()
    assert "detectron2 0.7 is installed but does not import" in sentence
    assert "undefined symbol" in sentence
