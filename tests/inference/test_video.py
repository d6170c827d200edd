import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vitadapter_d2.inference.video import VideoReader, VideoWriter, Window

ROOT = Path(__file__).parents[2]


def frames(count=12, height=48, width=64):
    """A bar that walks over grey: one can tell the frames apart after compression."""
    for index in range(count):
        frame = np.full((height, width, 3), 90, np.uint8)
        frame[:, 4 * index : 4 * index + 8] = (40, 200, 250)
        yield frame


def write(path, **kwargs):
    with VideoWriter(path, fps=12.5, codec=kwargs.pop("codec", None)) as writer:
        for frame in frames(**kwargs):
            writer.write(frame)
    return writer.path


def bar_of(frame):
    """Left end of the bar."""
    return int(np.argmax(frame[:, :, 2].mean(axis=0) > 170))


def jpeg_starts(content):
    starts, position = [], content.find(b"\xff\xd8\xff")
    while position >= 0:
        starts.append(position)
        position = content.find(b"\xff\xd8\xff", position + 1)
    return starts


@pytest.mark.parametrize(
    ("codec", "suffix"), [(None, ".mp4"), ("MJPG", ".avi"), ("XVID", ".avi"), ("mp4v", ".mp4")]
)
def test_what_is_written_is_read(tmp_path, codec, suffix):
    path = write(tmp_path / "new" / "clip.mp4", codec=codec)
    assert path == tmp_path / "new" / f"clip{suffix}"
    assert os.listdir(path.parent) == [path.name]
    with VideoReader(path) as reader:
        assert (reader.frame_count, reader.fps) == (12, 12.5)
        read = list(reader)
    assert reader.problem is None
    for index, (frame, expected) in enumerate(zip(read, frames(), strict=True)):
        assert frame.shape == expected.shape
        assert abs(bar_of(frame) - 4 * index) <= 1


@pytest.mark.parametrize("suffix", [".avi", ".webm"])
def test_the_suffix_chooses_the_codec(tmp_path, suffix):
    path = write(tmp_path / f"clip{suffix}", count=3)
    assert path.suffix == suffix
    with VideoReader(path) as reader:
        assert len(list(reader)) == 3


@pytest.mark.parametrize("codec", ["mp4v", "MJPG"])
def test_odd_sides_are_made_even_and_nothing_is_cut(tmp_path, codec):
    path = write(tmp_path / "odd.mp4", count=3, height=49, width=65, codec=codec)
    with VideoReader(path) as reader:
        frame = next(iter(reader))
    assert frame.shape == (50, 66, 3)


def test_frames_of_another_size_are_fitted(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for size in ((48, 64), (24, 32)):
            writer.write(np.full((*size, 3), 100, np.uint8))
    with VideoReader(writer.path) as reader:
        assert [frame.shape for frame in reader] == [(48, 64, 3)] * 2


@pytest.mark.parametrize("codec", ["ABCD", "avc1"])
def test_a_codec_that_cannot_be_had_is_named(tmp_path, codec):
    if codec == "avc1" and _can_encode(tmp_path / "probe.mp4", codec):
        codec = "WXYZ"  # an OpenCV with an H.264 encoder
    message = (
        rf"64 x 48 pixels at 12.5 .* codec {codec} into .mp4: try --codec MJPG or XVID or mp4v"
    )
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out" / "clip.mp4", codec=codec)
    assert os.listdir(tmp_path / "out") == []


def _can_encode(path, codec):
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48)).isOpened()


def test_motion_jpeg_takes_the_place_of_a_missing_default(tmp_path, monkeypatch):
    monkeypatch.setattr("vitadapter_d2.inference.video._DEFAULT_CODECS", {".mp4": ("ABCD", "MJPG")})
    path = write(tmp_path / "clip.mp4")
    assert os.listdir(tmp_path) == ["clip.avi"]
    with VideoReader(path) as reader:
        assert len(list(reader)) == 12


def test_a_codec_has_four_characters(tmp_path):
    with pytest.raises(ValueError, match="must have four characters, such as mp4v, got 'h264x'"):
        VideoWriter(tmp_path / "clip.mp4", 10, "h264x")


def test_nothing_is_left_of_a_video_that_failed(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"an older one")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        writer.write(next(frames()))
        raise RuntimeError
    assert (tmp_path / "clip.mp4").read_bytes() == b"an older one"
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_no_frame_makes_no_file(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10):
        pass
    assert os.listdir(tmp_path) == []


def test_frames_that_did_not_arrive_on_the_disk_are_missed(tmp_path):
    with pytest.raises(OSError, match="only 3 of 100 frames arrived on the disk: is it full"):
        with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
            for frame in frames(3):
                writer.write(frame)
            writer.frames = 100  # a full disk cannot be had here
    assert os.listdir(tmp_path) == []


INTERRUPTED = """
import sys, time
from pathlib import Path
import numpy as np
from vitadapter_d2.inference.video import VideoWriter
with VideoWriter(Path(sys.argv[1]), 10) as writer:
    for value in range(200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
        if value == 19:
            print("ready", flush=True)
            time.sleep(60)
"""


def test_what_was_written_before_ctrl_c_plays(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "clip.mp4")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    assert not (tmp_path / "clip.mp4").exists()
    child.send_signal(signal.SIGINT)
    child.wait(timeout=30)
    child.stdout.close()
    assert os.listdir(tmp_path) == ["clip.mp4"]
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert len(list(reader)) == 20


def test_a_frame_that_cannot_be_decoded_is_replaced_by_the_one_before(tmp_path):
    path = write(tmp_path / "clip.avi")
    content = bytearray(path.read_bytes())
    start = jpeg_starts(content)[5]
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)
    with VideoReader(path) as reader:
        bars = [bar_of(frame) for frame in reader]
    expected = [0, 4, 8, 12, 16, 16, 24, 28, 32, 36, 40, 44]
    assert len(bars) == 12
    np.testing.assert_allclose(bars, expected, atol=1)
    assert reader.problem == "1 of 12 frames could not be decoded"


def test_a_video_that_was_cut_off_says_so(tmp_path):
    path = write(tmp_path / "clip.avi")
    content = path.read_bytes()
    path.write_bytes(content[: jpeg_starts(content)[7]])
    with VideoReader(path) as reader:
        assert len(list(reader)) == 7
    assert reader.problem == "it ends after 7 of 12 frames"


def test_a_video_without_frames_says_so(tmp_path):
    path = tmp_path / "empty.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48)).release()
    with VideoReader(path) as reader:
        assert list(reader) == []
    assert reader.problem == "no frame can be decoded"


def test_what_is_no_video_is_named(tmp_path, capfd):
    path = tmp_path / "note.mp4"
    path.write_bytes(b"nothing of that kind")
    with pytest.raises(ValueError, match=f"OpenCV cannot read {path} as a video: it is damaged"):
        VideoReader(path)
    with pytest.raises(ValueError, match=f"there is no video {tmp_path / 'none.mp4'}"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="OpenCV cannot open the camera 93"):
        VideoReader(93)
    assert capfd.readouterr().err == ""


def test_without_a_display_there_is_no_window(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ValueError, match="there is no display"):
        Window("test")
    if "GUI:                           NONE" in cv2.getBuildInformation():
        monkeypatch.setenv("DISPLAY", ":93")
        with pytest.raises(ValueError, match=r"this OpenCV has no windows \(opencv-python has\)"):
            Window("test")
