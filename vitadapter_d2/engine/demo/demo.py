"""Looks at pictures, videos and cameras, and draws and writes what a model sees there."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vitadapter_d2.engine.demo.options import DemoOptions
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.predictor import Predictor
from vitadapter_d2.files import write_image
from vitadapter_d2.inference.drawing import draw_prediction
from vitadapter_d2.inference.inputs import Input, read_picture
from vitadapter_d2.inference.painting import InstanceColors
from vitadapter_d2.inference.results_json import write_results
from vitadapter_d2.inference.selection import select
from vitadapter_d2.inference.video import VideoReader, VideoWriter, Window

# So many batches of pictures wait in memory for others of their size.
_WAITING_BATCHES = 4


@dataclass(frozen=True)
class _Waiting:
    """A picture that was read."""

    file: Input
    path: Path
    image: np.ndarray
    item: dict[str, Any]


class Demo:
    """Draws what a model sees.

    Args:
        predictor: the model.
        options: what is shown.

    Attributes:
        pictures: drawn so far.
        frames: drawn so far.
        seconds: that it took.
        problems: a line for each file that could not be read, or not the whole of it.
    """

    def __init__(self, predictor: Predictor, options: DemoOptions) -> None:
        self.predictor = predictor
        self.options = options
        self.pictures = 0
        self.frames = 0
        self.seconds = 0.0
        self.problems: list[str] = []

    def draw_pictures(self, inputs: Sequence[Input], paths: Sequence[Path]) -> None:
        """Draws pictures, those of one size class in batches; files that cannot be read are noted.

        Args:
            inputs: pictures.
            paths: where each drawing goes.
        """
        start = time.monotonic()
        try:
            with tqdm(total=len(inputs), unit="image") as bar:
                for batch in self._batches(self._read(inputs, paths, bar)):
                    predictions = self._predict([one.item for one in batch])
                    for one, prediction in zip(batch, predictions, strict=True):
                        self._draw_picture(one, prediction)
                        bar.update()
        finally:
            self.seconds += time.monotonic() - start

    def draw_video(self, source: Path, path: Path) -> Path | None:
        """Draws a video; one that cannot be read is noted.

        Args:
            source: the video.
            path: where the drawn one goes; the codec decides on its suffix.

        Returns:
            The file that was written.

        Raises:
            ValueError: the video cannot be encoded.
        """
        try:
            reader = VideoReader(source)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        start = time.monotonic()
        try:
            with reader, VideoWriter(path, reader.fps, self.options.codec) as writer:
                self._draw_frames(reader, writer, path.with_suffix(".frames"))
        finally:
            self.seconds += time.monotonic() - start
        if reader.problem:
            self.problems.append(f"{source}: {reader.problem}")
        return writer.path if writer.frames else None

    def watch(self, camera: int | Path, path: Path) -> Path | None:
        """Draws what a camera sees until ``q`` is pressed in the window, or Ctrl-C.

        The video has the camera's frames per second: a frame is repeated for as long as the model
        took for it.

        Args:
            camera: its number, or a file that stands for one.
            path: where the video goes.

        Returns:
            The file that was written.

        Raises:
            ValueError: there is no such camera, or the video cannot be encoded.
        """
        with (
            VideoReader(camera) as reader,
            VideoWriter(path, reader.fps, self.options.codec) as writer,
        ):
            window = _window(f"camera {camera}")
            colors = InstanceColors(self.predictor.metadata)
            start = time.monotonic()
            for frame in tqdm(reader, unit="frame"):
                (prediction,) = self.predictor.batch([frame])
                drawn, _ = self._draw(frame, prediction, colors)
                self.frames += 1
                self.seconds = time.monotonic() - start
                due = round(self.seconds * reader.fps)
                for _ in range(max(1, due - writer.frames)):
                    writer.write(drawn)
                if window is not None and not window.show(drawn):
                    window.close()
                    break
        return writer.path if writer.frames else None

    def _read(
        self, inputs: Sequence[Input], paths: Sequence[Path], bar: tqdm
    ) -> Iterator[_Waiting]:
        for file, path in zip(inputs, paths, strict=True):
            try:
                image = read_picture(file.path)
            except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
                self.problems.append(f"{file.path}: {str(error) or type(error).__name__}")
                bar.update()
                continue
            yield _Waiting(file, path, image, self.predictor.prepare(image))

    def _batches(self, pictures: Iterable[_Waiting]) -> Iterator[list[_Waiting]]:
        """Pictures of one size class; not in order."""
        groups: dict[tuple[int, int], list[_Waiting]] = {}
        for picture in pictures:
            size = self.predictor.size_class(picture.item)
            groups.setdefault(size, []).append(picture)
            if len(groups[size]) == self.options.batch_size:
                yield groups.pop(size)
            elif sum(map(len, groups.values())) >= _WAITING_BATCHES * self.options.batch_size:
                yield groups.pop(max(groups, key=lambda each: len(groups[each])))
        yield from groups.values()

    def _draw_frames(self, reader: VideoReader, writer: VideoWriter, folder: Path) -> None:
        colors = InstanceColors(self.predictor.metadata)
        frames = iter(reader)
        with tqdm(total=reader.frame_count, unit="frame") as bar:
            while batch := list(islice(frames, self.options.batch_size)):
                items = [self.predictor.prepare(frame) for frame in batch]
                for frame, prediction in zip(batch, self._predict(items), strict=True):
                    drawn, selected = self._draw(frame, prediction, colors)
                    if self.options.is_json:
                        name = f"{writer.frames:06d}"
                        self._write_json(folder / f"{name}.json", selected, name, frame)
                    writer.write(drawn)
                    self.frames += 1
                    bar.update()

    def _predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            return self.predictor.predict(items)
        except torch.OutOfMemoryError as error:
            height, width = self.predictor.size_class(items[0])
            raise ConfigError(
                f"the memory of {self.predictor.device} does not hold {len(items)} images of "
                f"{height} x {width} pixels at once: take a smaller --batch-size, or --device cpu"
            ) from error

    def _draw_picture(self, picture: _Waiting, prediction: dict[str, Any]) -> None:
        selected = self._select(prediction)
        drawn = draw_prediction(
            picture.image[:, :, ::-1],
            selected,
            self.predictor.metadata,
            threshold=0.0,
            alpha=self.options.alpha,
        )
        write_image(picture.path, drawn)
        if self.options.is_json:
            name = picture.file.place.as_posix()
            self._write_json(picture.path.with_suffix(".json"), selected, name, picture.image)
        self.pictures += 1

    def _draw(
        self, frame: np.ndarray, prediction: dict[str, Any], colors: InstanceColors
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The drawn frame, BGR, and what is shown in it."""
        selected = self._select(prediction)
        drawn = draw_prediction(
            frame[:, :, ::-1],
            selected,
            self.predictor.metadata,
            threshold=0.0,
            alpha=self.options.alpha,
            colors=colors,
            is_enlarged=False,
        )
        return np.ascontiguousarray(drawn[:, :, ::-1]), selected

    def _select(self, prediction: dict[str, Any]) -> dict[str, Any]:
        metadata, options = self.predictor.metadata, self.options
        return select(prediction, metadata, options.threshold, options.classes)

    def _write_json(
        self, path: Path, selected: dict[str, Any], name: str, image: np.ndarray
    ) -> None:
        height, width = image.shape[:2]
        write_results(path, selected, self.predictor.metadata, file_name=name, size=(height, width))


def _window(title: str) -> Window | None:
    try:
        window = Window(title)
    except ValueError as error:
        print(f"{error}; the video is written, Ctrl-C ends it")
        return None
    print("press q in the window to end")
    return window
