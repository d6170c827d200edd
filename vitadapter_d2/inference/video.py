"""Videos in and out with OpenCV, and a window to show them in."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

_DEFAULT_FPS = 25.0
_MAX_FAILURES = 1000
_DEFAULT_CODECS = {".avi": ("MJPG",), ".mkv": ("FFV1",), ".webm": ("VP80",)}
_CONTAINERS = {
    "mp4v": ".mp4",
    "avc1": ".mp4",
    "hvc1": ".mp4",
    "av01": ".mp4",
    "MJPG": ".avi",
    "XVID": ".avi",
    "FFV1": ".mkv",
    "VP80": ".webm",
    "VP90": ".webm",
}


class VideoReader:
    """Iterates over the frames of a video file or a camera, ``(H, W, 3)`` uint8 BGR.

    A frame in the middle that cannot be decoded is replaced by the one before it (the first ones
    are left out), so that the video keeps its length; ``problem`` tells of it afterwards.

    Args:
        source: file, or the number of a camera.

    Attributes:
        fps: frames per second, 25 if the file does not say.
        frame_count: what the file announces, in some containers an estimate; None if nothing.

    Raises:
        ValueError: OpenCV cannot read it.
    """

    def __init__(self, source: Path | int) -> None:
        self.source = source
        if isinstance(source, Path) and not source.is_file():
            raise ValueError(f"there is no video {source}")
        with _silence():
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            raise ValueError(self._refusal())
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _DEFAULT_FPS
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_known = isinstance(source, Path) and announced > 0
        self.frame_count = int(announced) if is_known else None
        self.frames = 0
        self.damaged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        frame: np.ndarray | None = None
        while (following := self._next()) is not None:
            skipped, after = following
            self.damaged += skipped
            for shown in [frame] * skipped + [after]:
                if shown is not None:
                    self.frames += 1
                    yield shown
            frame = after

    @property
    def problem(self) -> str | None:
        """After the last frame: what was not right, in a few words."""
        if not self.frames:
            return "no frame can be decoded"
        if self.damaged:
            return f"{self.damaged} of {self.frames} frames could not be decoded"
        if self.frame_count and _is_short(self.frames, self.frame_count):
            return f"it ends after {self.frames} of {self.frame_count} frames"
        return None

    def _next(self) -> tuple[int, np.ndarray] | None:
        """How many frames could not be decoded, and the one after them; None at the end."""
        expected = (self.frame_count or 0) - self.frames
        for failures in range(1 + min(max(expected, 0), _MAX_FAILURES)):
            is_read, frame = self._capture.read()
            if is_read:
                return failures, frame
        return None

    def _refusal(self) -> str:
        if isinstance(self.source, int):
            return f"OpenCV cannot open the camera {self.source}; others have other numbers"
        return (
            f"OpenCV cannot read {self.source} as a video: it is damaged, none at all, or in a "
            "format that this build of OpenCV lacks"
        )


class VideoWriter:
    """Writes frames to a file that appears under its name when it is whole.

    Leaving the ``with`` block by Ctrl-C makes it whole too: what was written is kept as a file
    that plays. After any other error nothing is left. A side of odd length, which the usual
    codecs cannot store, gets its last row or column twice.

    Args:
        path: its suffix is replaced by that of a container that ``codec`` goes into.
        fps: frames per second.
        codec: the four characters by which OpenCV knows it; None takes one for the suffix of
            ``path``: MPEG-4 for ``.mp4``, or Motion-JPEG in ``.avi`` where that is not to be had.

    Attributes:
        path: the file that is written; known with the first frame.
        frames: written so far.

    Raises:
        ValueError: ``codec`` has not four characters.
    """

    def __init__(self, path: Path, fps: float, codec: str | None = None) -> None:
        if codec is not None and len(codec) != 4:
            raise ValueError(f"codec must have four characters, such as mp4v, got {codec!r}")
        self.path = path
        self.fps = fps
        self.frames = 0
        default = _DEFAULT_CODECS.get(path.suffix.lower(), ("mp4v", "MJPG"))
        self._codecs = (codec,) if codec else default
        self._size: tuple[int, int] | None = None
        self._partial: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._partial is None:
            return
        try:
            self._writer.release()
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._finish(self._partial)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame.

        Args:
            frame: ``(H, W, 3)`` uint8 BGR; the first sets the size, others are resized to it.

        Raises:
            ValueError: OpenCV cannot encode such a video.
        """
        if self._size is None:
            self._size = (frame.shape[1], frame.shape[0])
            self._open(self._size)
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(_even(frame))
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for codec in self._codecs:
            self.path = self.path.with_suffix(_CONTAINERS.get(codec, ".mp4"))
            partial = self.path.with_name(
                f".{self.path.stem}.{os.getpid()}.partial{self.path.suffix}"
            )
            with _silence():
                code = cv2.VideoWriter.fourcc(*codec)
                even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
                self._writer = cv2.VideoWriter(str(partial), code, self.fps, even)
            if self._writer.isOpened():
                self._partial = partial
                return
            partial.unlink(missing_ok=True)
        raise ValueError(
            f"OpenCV cannot encode {size[0]} x {size[1]} pixels at {self.fps:g} frames per second "
            f"by the codec {' or '.join(self._codecs)} into {self.path.suffix}: try --codec "
            f"{' or '.join(sorted({'mp4v', 'MJPG', 'XVID'} - set(self._codecs)))}"
        )

    def _finish(self, partial: Path) -> None:
        # OpenCV says nothing when it could not write a frame.
        written = _count_frames(partial)
        if _is_short(written, self.frames):
            raise OSError(
                f"{self.path} could not be written, only {written} of {self.frames} frames arrived "
                "on the disk: is it full?"
            )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.path)


class Window:
    """Shows frames; pressing ``q`` in it ends the show.

    Raises:
        ValueError: there is no display, or OpenCV was built without windows.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        # OpenCV ends the whole process if it meets no display server.
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise ValueError("there is no display to show a window on")
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ValueError("this OpenCV has no windows (opencv-python has)") from error

    def show(self, frame: np.ndarray) -> bool:
        """Shows ``(H, W, 3)`` uint8 BGR; False once ``q`` was pressed."""
        cv2.imshow(self.title, frame)
        return cv2.waitKey(1) & 0xFF != ord("q")

    def close(self) -> None:
        """Takes the window away."""
        cv2.destroyWindow(self.title)


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(frame)


def _count_frames(path: Path) -> int:
    with _silence():
        capture = cv2.VideoCapture(str(path))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
        capture.release()
    return int(count)


def _is_short(frames: int, expected: int) -> bool:
    # Some containers tell a duration rather than a number of frames: it is off by a little.
    return expected - frames > expected // 50 + (expected > 1)


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps remarks of OpenCV, and of FFmpeg inside of it, off the terminal."""
    # FFmpeg would tell of every damaged block; it looks at this when the first video is opened.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
