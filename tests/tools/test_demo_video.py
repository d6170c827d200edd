import json
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from vitadapter_d2 import Predictor
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.demo.demo import Demo
from vitadapter_d2.engine.demo.options import (
    DemoOptions,
    check_device,
    chosen_classes,
    chosen_threshold,
    set_panoptic_thresholds,
)
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.inference.video import VideoReader, VideoWriter

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo.py"
CONFIG = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    Checkpointer(instantiate(load_config(CONFIG).model), str(folder)).save("weights")
    return folder / "weights.pth"


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor(CONFIG, weights, "cpu")


@pytest.fixture
def run(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, Path]]:
    """Runs the tool in this process; returns status and output folder."""

    def run(*arguments: object) -> tuple[int, Path]:
        output = tmp_path / "drawn"
        words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu"]
        words += ["--output", output, *arguments]
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name="__main__")
        return stop.value.code, output

    return run


def write_video(path: Path, frames: int = 5, height: int = 48, width: int = 64) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(path, 12.5) as writer:
        for _ in range(frames):
            writer.write(rng.integers(0, 256, (height, width, 3), np.uint8))
    return writer.path


def read(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Number of frames, frames per second, height and width."""
    with VideoReader(path) as reader:
        frames = list(reader)
    return len(frames), reader.fps, frames[0].shape[:2]


def test_a_video_keeps_frames_rate_and_size(run, tmp_path, capsys):
    source = write_video(tmp_path / "images" / "sub" / "clip.avi")
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((48, 64, 3), np.uint8))
    status, output = run("--input", tmp_path / "images", "--batch-size", 2, "--json")
    assert status == 0
    assert read(output / "sub" / "clip.mp4") == read(source) == (5, 12.5, (48, 64))
    printed = capsys.readouterr()
    assert f"video in {output / 'sub' / 'clip.mp4'}\n" in printed.out
    assert "1 of 1 images drawn" in printed.out and "5 frames of videos" in printed.out
    assert "5/5" in printed.err  # the progress bar knows the total
    frames = sorted((output / "sub" / "clip.frames").glob("*.json"))
    assert [frame.name for frame in frames] == [f"{index:06d}.json" for index in range(5)]
    results = json.loads(frames[4].read_text())
    assert (results["file_name"], results["height"], results["width"]) == ("000004", 48, 64)
    assert (frames[4].parent / results["semantic"]["file_name"]).is_file()


def test_a_video_of_any_suffix_is_taken_by_its_own_flag(run, tmp_path):
    write_video(tmp_path / "clip.mp4", frames=2).rename(tmp_path / "clip.data")
    status, output = run("--video-input", tmp_path / "clip.data", "--codec", "MJPG")
    assert status == 0
    assert read(output / "clip.avi")[0] == 2


def test_videos_that_cannot_be_read_are_reported_and_skipped(run, tmp_path, capsys):
    good = write_video(tmp_path / "good.mp4", frames=2)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    cv2.VideoWriter(
        str(tmp_path / "empty.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48)
    ).release()
    names = ("bad.mp4", "empty.avi", "none.mp4")
    status, output = run("--video-input", *(tmp_path / name for name in names), good)
    assert status == 1
    errors = capsys.readouterr().err
    assert f"skipped OpenCV cannot read {tmp_path / 'bad.mp4'} as a video" in errors
    assert f"skipped {tmp_path / 'empty.avi'}: no frame can be decoded" in errors
    assert f"no image or video at {tmp_path / 'none.mp4'}" in errors
    assert [path.name for path in output.iterdir()] == ["good.mp4"]


def test_a_codec_that_cannot_be_had_is_one_sentence(run, tmp_path, capsys):
    source = write_video(tmp_path / "clip.mp4", frames=2)
    status, output = run("--input", source, "--codec", "ABCD")
    assert status == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("OpenCV cannot encode 64 x 48 pixels at 12.5 frames per second by the")
    assert "codec ABCD" in error and error.endswith("try --codec MJPG or XVID or mp4v")
    assert list(output.iterdir()) == []


def test_ctrl_c_keeps_the_video_up_to_there(run, tmp_path, monkeypatch, capsys):
    source = write_video(tmp_path / "clip.mp4")
    predict, calls = Predictor.predict, []

    def interrupted(self: Predictor, items: list) -> list:
        calls.append(len(items))
        if len(calls) > 3:
            signal.raise_signal(signal.SIGINT)
        return predict(self, items)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    status, output = run("--input", source)
    assert status == 130
    assert [path.name for path in output.iterdir()] == ["clip.mp4"]
    assert read(output / "clip.mp4")[0] == 3
    printed = capsys.readouterr()
    assert "interrupted; what is done is kept" in printed.err
    assert "3 frames of videos" in printed.out


def test_a_camera_is_drawn_in_its_own_time(predictor, tmp_path, monkeypatch, capsys):
    """A file stands for the camera, which this machine may not have."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    demo = Demo(predictor, DemoOptions())
    path = demo.watch(write_video(tmp_path / "clip.mp4"), tmp_path / "camera0.mp4")
    assert (
        "there is no display to show a window on; the video is written" in capsys.readouterr().out
    )
    assert demo.frames == 5
    frames, rate, size = read(path)
    assert (rate, size) == (12.5, (48, 64))
    assert abs(frames - max(5, round(demo.seconds * rate))) <= 5


def test_the_window_ends_the_show(predictor, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, frame: shown.append(frame.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 2 else -1)
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: shown.append("closed"))
    demo = Demo(predictor, DemoOptions())
    path = demo.watch(write_video(tmp_path / "clip.mp4"), tmp_path / "camera0.mp4")
    assert shown == [(48, 64, 3), (48, 64, 3), "closed"]
    assert path.is_file()


def test_too_large_a_batch_says_what_to_do(predictor, tmp_path, monkeypatch):
    def full(items: list) -> list:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predictor, "predict", full)
    demo = Demo(predictor, DemoOptions(batch_size=4))
    message = r"memory of cpu does not hold 4 images of \d+ x \d+ pixels .* smaller --batch-size"
    with pytest.raises(ConfigError, match=message):
        demo.draw_video(write_video(tmp_path / "clip.mp4"), tmp_path / "drawn.mp4")
    assert not (tmp_path / "drawn.mp4").exists()


def test_panoptic_thresholds_are_the_models(predictor):
    set_panoptic_thresholds(predictor.model, 0.3)
    assert predictor.model.object_mask_threshold == 0.3
    before = predictor.model.overlap_threshold
    set_panoptic_thresholds(predictor.model, None, None)
    assert predictor.model.overlap_threshold == before
    set_panoptic_thresholds(predictor.model, overlap=0.1)
    assert predictor.model.overlap_threshold == 0.1
    with pytest.raises(ConfigError, match="Linear of this config gives no panoptic output"):
        set_panoptic_thresholds(torch.nn.Linear(1, 1), 0.5)
    set_panoptic_thresholds(torch.nn.Linear(1, 1))


def test_a_name_with_a_comma_is_one_class(predictor):
    assert chosen_classes(None, predictor.metadata) is None
    name = predictor.metadata.thing_classes[0]
    assert chosen_classes(f" {name} , grain", predictor.metadata) == {name, "grain"}
    metadata = type(predictor.metadata)(name="comma", stuff_classes=["door, screen", "door"])
    assert chosen_classes("door, screen", metadata) == {"door, screen"}


def test_a_device_is_checked_before_anything_is_loaded():
    check_device("cpu")
    with pytest.raises(ConfigError, match="device 'cuda:77' cannot be used: "):
        check_device("cuda:77")


def test_a_score_that_no_output_has_is_refused(predictor, monkeypatch):
    assert chosen_threshold(predictor.model, None) == 0.5
    assert chosen_threshold(predictor.model, 0.3) == 0.3
    monkeypatch.setattr(predictor.model, "instance_on", False)
    with pytest.raises(ConfigError, match="Mask2Former of this config gives no instances"):
        chosen_threshold(predictor.model, 0.3)
    segmentor = instantiate(load_config("shapes/upernet_vit_adapter_shapes").model)
    with pytest.raises(ConfigError, match="SemanticSegmentor of this config gives no instances"):
        chosen_threshold(segmentor, 0.3)
