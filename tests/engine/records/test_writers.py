"""What a training leaves for people to look at: console, TensorBoard, W&B, throughput."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitadapter_d2.engine.config.flat import flat_config
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.records.writers import (
    ConsolePrinter,
    WandbWriter,
    Writers,
    build_writers,
    put_picture,
)
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.training.throughput import Throughput, peak_memory


class RecordedWandb(ModuleType):
    """Stands in for wandb, 20 MB that the tests do not install: keeps what it is called with."""

    def __init__(self):
        super().__init__("wandb")
        self.opened, self.logged, self.exit_codes = [], [], []

    def init(self, **options):
        self.opened.append(options)
        return SimpleNamespace(
            id=options.get("id", f"run{len(self.opened)}"),
            log=lambda entry, step: self.logged.append((step, entry)),
            finish=lambda exit_code: self.exit_codes.append(exit_code),
        )

    def Image(self, array):  # noqa: N802
        return array.shape


@pytest.fixture
def wandb(monkeypatch):
    recorded = RecordedWandb()
    monkeypatch.setitem(sys.modules, "wandb", recorded)
    return recorded


def test_wandb_gets_each_scalar_once_and_the_pictures(wandb, tmp_path):
    writer = WandbWriter(tmp_path, {"a.b": 1}, False, project="p", mode="offline")
    with EventStorage(0) as storage:
        storage.put_scalar("lr", 0.5, smoothing_hint=False)
        put_picture("predictions/x", np.zeros((4, 6, 3), np.uint8))
        writer.write()
        storage.clear_images()  # as TensorBoard's writer, which comes after
        storage.step()
        storage.put_scalar("loss", 2.0)
        writer.write()
        writer.close()
    assert wandb.opened == [
        {"dir": str(tmp_path), "config": {"a.b": 1}, "project": "p", "mode": "offline"}
    ]
    assert wandb.logged == [(0, {"lr": 0.5, "predictions/x": (4, 6, 3)}), (1, {"loss": 2.0})]
    assert wandb.exit_codes == [0]


def test_a_resumed_training_continues_its_wandb_run(wandb, tmp_path):
    for is_continued in (False, True, False):
        WandbWriter(tmp_path, {}, is_continued)
    assert [options.get("id") for options in wandb.opened] == [None, "run1", None]


def test_a_failed_training_is_a_failed_run(wandb, tmp_path):
    writer = WandbWriter(tmp_path, {}, False)
    with pytest.raises(RuntimeError):
        try:
            raise RuntimeError
        finally:
            writer.close()
    assert wandb.exit_codes == [1]


def test_without_wandb_one_sentence_says_so(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny_config.train.wandb.enabled = True
    with pytest.raises(ValueError, match="train.wandb.enabled needs wandb.*pip install wandb"):
        Writers(tiny_config)


def test_options_reach_wandb_and_the_config_is_plain(wandb, tiny_config):
    tiny_config.train.wandb.update(enabled=True, entity="team")
    kinds = [type(one).__name__ for one in build_writers(tiny_config, 0, 10)]
    assert kinds == ["ConsolePrinter", "JSONWriter", "WandbWriter", "TensorboardXWriter"]
    (options,) = wandb.opened
    assert options["project"] == "vitadapter_d2" and options["entity"] == "team"
    assert json.loads(json.dumps(options["config"]))["train.max_iter"] == 2


def test_wandb_itself_takes_what_it_is_given(tmp_path):
    """Where it is installed: a run without a network."""
    pytest.importorskip("wandb")
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from detectron2.utils.events import EventStorage;"
        "from vitadapter_d2.engine.records.writers import WandbWriter, put_picture;"
        "w = WandbWriter(Path(sys.argv[1]), {'a.b': 1}, False, project='p', mode='offline');"
        "s = EventStorage(0).__enter__(); s.put_scalar('lr', 0.5);"
        "put_picture('predictions/x', np.zeros((4, 6, 3), np.uint8)); w.write(); w.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_training_shows_pictures_throughput_and_memory(tiny_config, caplog):
    tiny_config.train.max_iter = 4
    tiny_config.train.eval_period = 3
    with caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        do_train(tiny_config)
    output = Path(tiny_config.train.output_dir)
    events = EventAccumulator(str(output), size_guidance={"images": 0})
    events.Reload()
    pictures = events.Images("predictions/tiny_val_panoptic")
    assert [picture.step for picture in pictures] == [2, 4]
    last = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()][-2]
    assert last["images_per_s"] == pytest.approx(2 / last["time"], rel=0.5)
    assert 0 <= last["data_share"] <= 1
    assert last["peak_resident_MiB"] > 100
    line = [record.getMessage() for record in caplog.records if "iter: 3" in record.getMessage()][0]
    for part in ("eta: ", "total_loss: ", "time: ", "data_time: ", "images/s: ", "lr: ", "max_mem"):
        assert part in line


def throughput_after(times, data_times, images=8):
    hook = Throughput(images, period=len(times))
    with EventStorage(0) as storage:
        for seconds, waiting in zip(times, data_times, strict=True):
            storage.put_scalars(time=seconds, data_time=waiting)
            storage.step()
        hook.trainer = SimpleNamespace(
            iter=len(times) - 1, max_iter=100, storage=storage, device=torch.device("cpu")
        )
        hook.after_step()
        return {name: value for name, (value, _) in storage.latest().items()}


def test_rates_are_those_of_the_last_twenty_iterations():
    recorded = throughput_after([9.0] * 5 + [0.5] * 20, [9.0] * 5 + [0.1] * 20)
    assert recorded["images_per_s"] == pytest.approx(16.0)
    assert recorded["data_share"] == pytest.approx(0.2)


def test_waiting_is_no_more_than_all_of_the_time():
    assert throughput_after([0.5], [0.7])["data_share"] == 1.0


def test_memory_is_the_high_water_mark_of_the_process():
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc on this system")
    (mark,) = (line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)
    measured = peak_memory(torch.device("cpu"))["peak_resident_MiB"]
    assert measured == pytest.approx(int(mark) / 1024, rel=0.05)


def test_the_console_leaves_out_what_is_not_on_record(caplog):
    with EventStorage(7), caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        ConsolePrinter(10).write()
    assert caplog.messages == [" iter: 7  "]


def test_a_large_picture_is_made_smaller_and_without_a_training_nothing_happens():
    image = np.zeros((800, 3200, 3), np.uint8)
    put_picture("x", image)
    with EventStorage(0) as storage:
        put_picture("x", image)
        assert storage._vis_data[0][1].shape == (3, 400, 1600)


def test_a_config_is_flattened_to_names_and_values():
    flat = flat_config(load_config("shapes/mask2former_vit_adapter_quickstart"))
    assert flat["train.amp.enabled"] is False
    assert flat["model._target_"].endswith(".MaskFormer") or "mask2former" in flat["model._target_"]
    assert flat["dataloader.train.mapper.augmentations[0].horizontal"] is True
    assert {type(value) for value in flat.values()} <= {str, int, float, bool, type(None)}
