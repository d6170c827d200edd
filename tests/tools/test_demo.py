import json
import re
import runpy
import shlex
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog

from vitadapter_d2 import Predictor
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.loading import load_config

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.py"
CONFIG = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIG).model)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] -= 3  # there is something everywhere
    Checkpointer(model, str(folder)).save("weights")
    return folder / "weights.pth"


@pytest.fixture
def demo(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, Path]]:
    """Runs the tool in this process, which saves its imports; returns status and output folder."""

    def run(*inputs: Path, output: Path | None = None, flags: str = "") -> tuple[int, Path]:
        output = output or tmp_path / "drawn"
        options = {"config-file": CONFIG, "weights": weights, "output": output, "device": "cpu"}
        words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        words += shlex.split(flags)
        if inputs:
            words += ["--input", *map(str, inputs)]
        monkeypatch.setattr(sys, "argv", ["demo.py", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(DEMO), run_name="__main__")
        return stop.value.code, output

    return run


def write_image(path: Path) -> bytes:
    path.parent.mkdir(exist_ok=True, parents=True)
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


def test_what_is_missing_is_told_and_the_rest_drawn(demo, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    status, output = demo(tmp_path / "nothing.jpg", tmp_path / "a.png", tmp_path / "*.bmp")
    assert status == 1
    printed = capsys.readouterr()
    assert "1 of 1 images drawn in" in printed.out
    assert f"no image or video at {tmp_path / 'nothing.jpg'}\n" in printed.err
    assert f"no image or video at {tmp_path / '*.bmp'}\n" in printed.err
    assert names_in(output) == ["a.png"]


def test_nothing_at_all_is_one_sentence(demo, tmp_path, capsys):
    status, output = demo(tmp_path / "nothing.jpg")
    assert status == 1
    assert capsys.readouterr().err == f"no image or video at {tmp_path / 'nothing.jpg'}\n"
    assert not output.exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_a_tree_is_mirrored_or_made_flat(demo, tmp_path):
    folder = tmp_path / "images"
    write_image(folder / "a.png")
    write_image(folder / "sub" / "a.png")
    _, mirrored = demo(folder, flags="--format jpg")
    assert names_in(mirrored) == ["a.jpg", "sub/a.jpg"]
    _, flat = demo(folder, flags="--flat", output=tmp_path / "flat")
    assert names_in(flat) == ["a.png", "a_2.png"]


def test_the_output_may_be_a_file(demo, tmp_path, capsys):
    before = write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    status, _ = demo(tmp_path / "a.png", output=tmp_path / "new" / "drawn.jpg")
    assert status == 0
    assert names_in(tmp_path / "new") == ["drawn.jpg"]
    status, _ = demo(tmp_path / "a.png", output=tmp_path / "a.png")
    assert status == 1
    assert "is the input, which is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before
    status, _ = demo(tmp_path / "a.png", tmp_path / "b.png", output=tmp_path / "new" / "c.png")
    assert status == 1
    assert "is one file: it cannot take 2 pictures and 0 videos" in capsys.readouterr().err


def test_batches_of_several_sizes_draw_what_single_images_do(demo, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index, size in enumerate([(32, 40), (40, 32), (32, 40), (48, 48), (32, 40)]):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image)
    flags = "--json --confidence-threshold 0 --panoptic-threshold 0 --overlap-threshold 0"
    _, single = demo(tmp_path / "images", flags=flags, output=tmp_path / "single")
    status, batches = demo(tmp_path / "images", flags=f"{flags} --batch-size 2")
    assert status == 0
    assert re.search(r"5 of 5 images drawn in .*, \d+\.\d images/s", capsys.readouterr().out)
    assert len(names_in(single)) == 5 * 4
    for name in names_in(single):
        if name.endswith(".semantic.png"):
            expected, labels = (cv2.imread(str(f / name), -1) for f in (single, batches))
            assert (expected == labels).mean() > 0.999
    assert names_in(batches) == names_in(single)


def test_results_stand_beside_the_pictures(demo, tmp_path):
    write_image(tmp_path / "images" / "sub" / "a.png")
    flags = "--json --panoptic-threshold 0 --overlap-threshold 0 --confidence-threshold 0.05"
    _, output = demo(tmp_path / "images", flags=flags)
    assert names_in(output) == [
        f"sub/a.{end}" for end in ("json", "panoptic.png", "png", "semantic.png")
    ]
    results = json.loads((output / "sub" / "a.json").read_text())
    assert (results["file_name"], results["height"], results["width"]) == ("sub/a.png", 32, 40)
    assert results["panoptic"]["segments_info"]
    assert all(result["score"] >= 0.05 for result in results["instances"])
    assert sum(entry["area"] for entry in results["semantic"]["classes"]) == 32 * 40


def test_classes_are_chosen_and_wrong_ones_named(demo, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    names = MetadataCatalog.get("shapes_val_panoptic").stuff_classes
    wrong = f"{names[0]}x"
    status, _ = demo(tmp_path / "a.png", flags=f"--classes '{names[1]},{wrong}'")
    assert status == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"no class {wrong!r}; nearest: {names[0]}, ")
    assert len(error.split("nearest: ")[1].split(", ")) == 3
    status, output = demo(tmp_path / "a.png", flags=f"--json --classes '{names[0]},{names[1]}'")
    assert status == 0
    results = json.loads((output / "a.json").read_text())
    found = {entry["category"] for entry in results["semantic"]["classes"]}
    assert found <= set(names[:2])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch-size 0", "must be at least 1, got 0"),
        ("--confidence-threshold 1.5", "must be in [0, 1], got 1.5"),
        ("--alpha -1", "must be in [0, 1], got -1"),
        ("--format bmp", "invalid choice: 'bmp'"),
    ],
)
def test_wrong_values_of_flags_are_named(demo, tmp_path, capsys, flags, message):
    status, _ = demo(tmp_path, flags=flags)
    assert status == 2
    assert message in capsys.readouterr().err


def test_something_to_look_at_is_needed(demo, capsys):
    assert demo()[0] == 2
    assert "one of --input, --video-input and --webcam is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--device banana", "device 'banana' cannot be used: "),
        ("--opts model.number_of_heads=3", "number_of_heads"),
        ("--webcam 93", "OpenCV cannot open the camera 93"),
    ],
)
def test_what_cannot_work_is_one_sentence(demo, tmp_path, capsys, flags, message):
    write_image(tmp_path / "a.png")
    status, _ = demo(tmp_path / "a.png", flags=flags)
    assert status == 1
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error


def test_ctrl_c_keeps_what_is_done(demo, tmp_path, capsys, monkeypatch):
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.png")
    interrupt_after(monkeypatch, 2)
    status, output = demo(tmp_path / "images")
    assert status == 130
    printed = capsys.readouterr()
    assert "2 of 4 images drawn" in printed.out
    assert "interrupted; what is done is kept" in printed.err
    assert names_in(output) == ["a.png", "b.png"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Sends this process SIGINT when the model is asked once more."""
    remaining = [calls]
    predict = Predictor.predict

    def counted(self: Predictor, items: list) -> list:
        remaining[0] -= 1
        if remaining[0] < 0:
            signal.raise_signal(signal.SIGINT)
        return predict(self, items)

    monkeypatch.setattr(Predictor, "predict", counted)
