import runpy
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from detectron2.config import instantiate

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config import load_config

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"
CONFIG = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    Checkpointer(instantiate(load_config(CONFIG).model), str(folder)).save("weights")
    return folder / "weights.pth"


@pytest.fixture
def demo(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, Path]]:
    """Runs the tool in this process, which saves its imports; returns status and output folder."""

    def run(*inputs: Path, output: Path | None = None) -> tuple[int, Path]:
        output = output or tmp_path / "drawn"
        options = {"config-file": CONFIG, "weights": weights, "output": output, "device": "cpu"}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["demo.py", *flags, "--input", *map(str, inputs)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(DEMO), run_name="__main__")
        return stop.value.code, output

    return run


@pytest.fixture(scope="module")
def output_paths() -> Callable[[list[Path], Path], list[Path]]:
    return runpy.run_path(str(DEMO))["output_paths"]


def write_image(path: Path) -> bytes:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8))
    return path.read_bytes()


def test_a_photograph_is_drawn_at_its_size(demo):
    photograph = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    status, output = demo(photograph)
    assert status == 0
    drawn = cv2.imread(str(output / "grace_hopper.png"))
    assert drawn.shape == cv2.imread(str(photograph)).shape


def test_inputs_survive_and_every_image_gets_its_own_picture(demo, tmp_path, capsys):
    folder = tmp_path / "images"
    names = ("a.jpg", "a.png", "a_2.jpg")
    before = {name: write_image(folder / name) for name in names}
    status, _ = demo(*(folder / name for name in names), output=folder)
    assert status == 0
    assert "3 of 3 images drawn" in capsys.readouterr().out
    assert {name: (folder / name).read_bytes() for name in names} == before
    drawn = {path.name for path in folder.iterdir()} - set(names)
    assert drawn == {"a_2.png", "a_3.png", "a_2_2.png"}


def test_files_of_one_name_are_numbered_past_the_names_that_are_taken(output_paths, tmp_path):
    names = ("x/a.jpg", "y/a.jpg", "y/a_2.jpg", "z/a.jpg", "z/b.jpg")
    paths = output_paths([tmp_path / name for name in names], tmp_path)
    expected = ["a.png", "a_2.png", "a_2_2.png", "a_3.png", "b.png"]
    assert [path.name for path in paths] == expected


def test_neither_a_linked_input_nor_its_link_is_overwritten(output_paths, tmp_path):
    (tmp_path / "real.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    inputs = [tmp_path / "link.png", tmp_path / "other" / "real.jpg"]
    paths = output_paths(inputs, tmp_path / "folder")
    assert [path.name for path in paths] == ["link_2.png", "real_2.png"]


def _broken_png() -> bytes:
    content = bytearray(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    start = content.index(b"IDAT") - 4
    data = zlib.compress(bytes(64 * (64 * 3 + 1)))[:16]  # cut off
    chunk = len(data).to_bytes(4, "big") + b"IDAT" + data
    return content[:start] + chunk + zlib.crc32(chunk[4:]).to_bytes(4, "big") + b"\1\2\3\4" * 9


def _huge_bmp() -> bytes:
    content = bytearray(cv2.imencode(".bmp", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    return content


def test_files_that_cannot_be_read_are_reported_and_skipped(demo, tmp_path, capsys):
    folder = tmp_path / "images"
    write_image(folder / "good.png")
    damaged = {
        "identity.png": (b"\x89PNG\r\n\x1a\n broken", "cannot identify image file"),
        "syntax.png": (_broken_png(), "broken PNG file"),
        "bomb.bmp": (_huge_bmp(), "exceeds limit"),
        "value.ppm": (b"P6 8 x 255\n", "invalid literal"),
    }
    for name, (content, _) in damaged.items():
        (folder / name).write_bytes(content)
    status, output = demo(folder)
    assert status == 1
    printed = capsys.readouterr()
    assert "1 of 5 images drawn" in printed.out
    skipped = [line for line in printed.err.splitlines() if line.startswith("skipped")]
    for line, (name, (_, reason)) in zip(skipped, sorted(damaged.items()), strict=True):
        assert f"{folder / name}: " in line and reason in line
    assert [path.name for path in output.iterdir()] == ["good.png"]


def test_what_is_missing_is_named(demo, tmp_path, capsys):
    status, output = demo(tmp_path / "nothing.jpg")
    assert status == 1
    assert capsys.readouterr().err == f"no image at {tmp_path / 'nothing.jpg'}\n"
    assert not output.exists()
