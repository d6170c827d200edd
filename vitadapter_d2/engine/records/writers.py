"""Where a training's numbers and pictures go: console, metrics.json, TensorBoard, W&B."""

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from detectron2.engine import hooks
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from omegaconf import DictConfig, OmegaConf

from vitadapter_d2.engine.config.flat import flat_config
from vitadapter_d2.files import replacing

_LONGEST_SIDE = 1600  # pixels of a picture on record
_WINDOW = 20  # iterations


class Writers(hooks.PeriodicWriter):
    """Detectron2's ``PeriodicWriter`` whose writers open when training starts.

    Only then is it known whether a run continues: TensorBoard drops what is trained again, W&B
    continues its run.

    Args:
        cfg: a LazyConfig; of ``train`` it takes ``output_dir``, ``log_period``, ``wandb``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__([], period=cfg.train.log_period)
        self.cfg = cfg
        if cfg.train.get("wandb", {}).get("enabled"):
            _import_wandb()  # before the first iteration rather than after it

    def before_train(self) -> None:
        """Opens the writers."""
        trainer = self.trainer
        self._writers = build_writers(self.cfg, trainer.start_iter, trainer.max_iter)


def build_writers(cfg: DictConfig, start_iter: int, max_iter: int) -> list[EventWriter]:
    """Console, ``metrics.json``, W&B if it is enabled, TensorBoard.

    Args:
        cfg: see :class:`Writers`.
        start_iter: first iteration; above 0 a run continues.
        max_iter: last iteration plus 1.
    """
    output = Path(cfg.train.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    writers = [
        ConsolePrinter(max_iter),
        JSONWriter(str(output / "metrics.json")),
        # Last: it clears the pictures.
        TensorboardXWriter(str(output), purge_step=start_iter),
    ]
    options: Any = OmegaConf.to_container(OmegaConf.create(cfg.train.get("wandb", {})))
    if options.pop("enabled", False):
        config = flat_config(cfg)
        writers.insert(2, WandbWriter(output, config, is_continued=start_iter > 0, **options))
    return writers


class ConsolePrinter(CommonMetricPrinter):
    """Detectron2's line with images per second, the share of waiting for data, and peak memory.

    These come from :class:`vitadapter_d2.engine.training.throughput.Throughput`; what is not on
    record is left out.
    """

    def write(self) -> None:
        """Writes one line, except after the last iteration."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        eta = self._get_eta(storage)
        losses = [
            f"{name}: {history.median(_WINDOW):.4g}"
            for name, history in storage.histories().items()
            if "loss" in name
        ]
        parts = [*losses, *_timing(storage), *_latest(storage, "lr", "lr: {:.5g}")]
        parts += _latest(storage, "peak_allocated_MiB", "max_mem: {:.0f}M")
        parts += _latest(storage, "peak_reserved_MiB", "reserved: {:.0f}M")
        parts += _latest(storage, "peak_resident_MiB", "max_mem: {:.0f}M")
        head = f"eta: {eta}  " if eta else ""
        self.logger.info(" %siter: %d  %s", head, storage.iter, "  ".join(parts))


def _timing(storage: EventStorage) -> list[str]:
    histories = storage.histories()
    parts = []
    if "time" in histories:
        parts.append(f"time: {histories['time'].global_avg():.4f}")
    if "data_time" in histories:
        share = _latest(storage, "data_share", " ({:.0%})")
        parts.append(f"data_time: {histories['data_time'].avg(_WINDOW):.4f}{''.join(share)}")
    return [*parts, *_latest(storage, "images_per_s", "images/s: {:.4g}")]


def _latest(storage: EventStorage, name: str, text: str) -> list[str]:
    history = storage.histories().get(name)
    return [] if history is None else [text.format(history.latest())]


class WandbWriter(EventWriter):
    """Weights & Biases: scalars smoothed as in ``metrics.json``, pictures, the config.

    Args:
        output_dir: the run's folder; its ``wandb`` holds what W&B writes, and the run's id, so
            that a resumed training continues its run.
        config: names and values to show with the run.
        is_continued: whether training continues.
        **options: of ``wandb.init``, such as project, name, entity, mode.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(
        self, output_dir: Path, config: dict[str, Any], is_continued: bool, **options: Any
    ) -> None:
        self._wandb = _import_wandb()
        id_file = output_dir / "wandb" / "run_id"
        if is_continued and id_file.is_file():
            options |= {"id": id_file.read_text(), "resume": "allow"}
        # Its own folder is made below this one, unless that is missing.
        id_file.parent.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(dir=str(output_dir), config=config, **options)
        with replacing(id_file, "w") as file:
            file.write(self._run.id)
        self._last_write = -1

    def write(self) -> None:
        """Sends what is new since the last call."""
        storage = get_event_storage()
        entries: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write:
                entries[iteration][name] = value
        for name, picture, iteration in storage._vis_data:  # TensorBoard's writer reads it so too
            image = np.asarray(picture).transpose(1, 2, 0)
            entries[iteration][name] = self._wandb.Image(image)
        for iteration, entry in sorted(entries.items()):
            self._run.log(entry, step=iteration)
            self._last_write = max(self._last_write, iteration)

    def close(self) -> None:
        """Ends the run, as failed if an error is on its way."""
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))


def put_picture(name: str, image: np.ndarray) -> None:
    """Gives a picture to the writers of a running training; without one, nothing happens.

    Args:
        name: under which it is shown.
        image: ``(H, W, 3)`` uint8 RGB; a large one is made smaller.
    """
    try:
        storage = get_event_storage()
    except AssertionError:  # v0.6 has no other way to ask
        return
    scale = _LONGEST_SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    storage.put_image(name, np.ascontiguousarray(image.transpose(2, 0, 1)))


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            "train.wandb.enabled needs wandb, which cannot be imported "
            f"({error}): pip install wandb, or set train.wandb.enabled=False"
        ) from None
    return wandb
