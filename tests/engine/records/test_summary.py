"""summary.md, and the best checkpoint that it names."""

import json
import logging
import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine import train as train_module
from vitadapter_d2.engine.config.flat import flat_config
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.records import summary as summary_module
from vitadapter_d2.engine.records.hardware import hardware
from vitadapter_d2.engine.records.run import RunRecord
from vitadapter_d2.engine.records.summary import count_images, differences
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.training.best import BestCheckpointer
from vitadapter_d2.engine.training.ema import ModelEma
from vitadapter_d2.engine.training.trainer import Trainer

BASE = "shapes/mask2former_vit_adapter_quickstart"


def read(cfg):
    return Path(cfg.train.output_dir, "summary.md").read_text()


@pytest.fixture
def config(tiny_config):
    tiny_config.train.source = {
        "config_file": BASE,
        "command": [
            "tools/train_net.py",
            "--config-file",
            BASE,
            "--resume",
            "a.b=[1, 2]",
            "train.output_dir=x",
        ],
    }
    return tiny_config


def test_a_finished_run_is_told_whole(config):
    config.train.max_iter = 4
    config.train.best_metric = "auto"
    results = do_train(config)
    text = read(config)
    assert "- state: finished\n- iterations: 4 of 4; this run began at 0\n" in text
    for part in ("s/it", "images/s at the end", "- waiting for data: ", "- peak resident memory: "):
        assert part in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["sem_seg", "mIoU", f"{results['sem_seg']['mIoU']:.3f}"] in rows
    assert not any("IoU-" in cell for row in rows for cell in row)
    assert ["train.max_iter", "600", "4"] in rows
    assert [
        "dataloader.train.dataset.names",
        "shapes_train_panoptic",
        "tiny_train_panoptic",
    ] in rows
    assert ["train", "tiny_train_panoptic", "8"] in rows
    assert ["test", "tiny_val_panoptic", "8"] in rows
    assert f"- torch: {torch.__version__}\n" in text
    best = Path(config.train.output_dir, "model_best.pth")
    assert "Best panoptic_seg/PQ: 0.000, after 4 iterations, in `model_best.pth`." in text
    (command,) = [line for line in text.splitlines() if "--eval-only" in line]
    assert shlex.split(command) == [
        "python",
        "tools/train_net.py",
        "--eval-only",
        "--config-file",
        BASE,
        "a.b=[1, 2]",
        f"train.init_checkpoint={best}",
        f"train.output_dir={best.parent / 'evaluation'}",
    ]


def test_samples_that_could_not_be_read_are_counted(config, tiny_root, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"")
    config.dataloader.train.dataset = LazyCall(with_damaged)(path=str(damaged))
    config.dataloader.train.on_error = "skip"
    config.train.max_iter = 4
    do_train(config)
    assert re.search(r"- samples that could not be read: [1-9]\d*, skipped", read(config))


def with_damaged(path):
    records = DatasetCatalog.get("tiny_train_panoptic")
    return [{**records[0], "file_name": path}, *records[1:3]]


def test_own_classes_are_named_beside_the_data(config):
    config.train.classes = {"thing_classes": list("abc"), "stuff_classes": []}
    summary = summary_module.Summary(config, RunRecord(config))
    assert summary._classes() == "\n\n3 classes: a, b, c"


def test_the_names_of_own_classes_do_not_fill_the_table():
    base = flat_config(OmegaConf.create({"train": {"max_iter": 3}}))
    own = {"train": {"max_iter": 3, "classes": {"kind": "semantic", "names": ["a", "b"]}}}
    assert not differences(base, flat_config(OmegaConf.create(own)))


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (FloatingPointError("the loss\nis nan"), "failed: FloatingPointError: the loss is nan"),
    ],
)
def test_a_run_that_ended_early_says_how(config, monkeypatch, error, state):
    step = Trainer.run_step

    def run_step(self):
        if self.iter == 1:
            raise error
        step(self)

    config.train.max_iter = 2  # the last iteration, too, is one that failed
    monkeypatch.setattr(Trainer, "run_step", run_step)
    with pytest.raises(type(error)):
        do_train(config)
    text = read(config)
    assert f"- state: {state}\n- iterations: 1 of 2; this run began at 0\n" in text
    assert "None: nothing was evaluated." in text
    assert "--eval-only" not in text  # nothing was saved


def test_an_evaluation_of_a_finished_run_is_told_and_on_record(config):
    config.train.best_metric = "auto"
    do_train(config)
    output = Path(config.train.output_dir)
    recorded = [json.loads(line) for line in (output / "metrics.json").open()]
    (output / "summary.md").unlink()
    for max_iter in (2, 1):  # the second: fewer than are done
        config.train.max_iter = max_iter
        results = do_train(config, resume=True)
        text = read(config)
        assert f"- state: finished\n- iterations: {max_iter} of {max_iter}; this run" in text
        assert results["sem_seg"]["mIoU"] == recorded[-1]["sem_seg/mIoU"]
        assert f"train.init_checkpoint={output / 'model_best.pth'}" in text
        assert " in 2 parts, the first started 20" in text
        again = [json.loads(line) for line in (output / "metrics.json").open()]
        assert [line["iteration"] for line in again] == [0, 1, max_iter]
        assert again[-1]["sem_seg/mIoU"] == results["sem_seg"]["mIoU"]


def test_the_best_of_another_run_is_not_what_is_evaluated(config):
    output = Path(config.train.output_dir)
    output.mkdir()
    (output / "model_best.pth").touch()
    do_train(config)
    assert f"train.init_checkpoint={output / 'model_final.pth'}" in read(config)


def test_a_failed_evaluation_is_a_failed_run(config, monkeypatch):
    def fail(*_):
        raise ValueError("no such image")

    monkeypatch.setattr(train_module, "do_test", fail)
    with pytest.raises(ValueError, match="no such image"):
        do_train(config)
    assert "- state: failed: ValueError: no such image\n- iterations: 2 of 2" in read(config)
    assert "model_final.pth" in read(config)


def test_a_run_that_is_killed_has_told_how_far_it_came(config, monkeypatch):
    config.train.eval_period = 1
    texts = []
    write = summary_module.Summary.write

    def written(self, state):
        write(self, state)
        texts.append(read(config))

    monkeypatch.setattr(summary_module.Summary, "write", written)
    do_train(config)
    assert ["- state: running" in text for text in texts] == [True, True, False]
    assert "- iterations: 1 of 2" in texts[1] and "| sem_seg" in texts[1]


def test_a_full_disk_does_not_end_the_training(config, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(summary_module, "replacing", full)
    with caplog.at_level(logging.WARNING):
        assert do_train(config)
    assert "summary.md is not up to date: [Errno 28]" in caplog.text


@pytest.mark.parametrize("folder", ["with a space", "lr=1,(2)"])
def test_the_command_evaluates_whatever_the_folder_is_called(folder, tmp_path):
    cfg = load_config(BASE)
    cfg.train.output_dir = str(tmp_path / folder)
    cfg.train.source.command = ["tools/train_net.py", "--config-file", BASE]
    checkpoint = tmp_path / folder / "model_final.pth"
    overrides = shlex.split(summary_module._evaluation(cfg, checkpoint))[-2:]
    assert load_config(BASE, overrides).train.init_checkpoint == str(checkpoint)


def test_differences_are_changed_added_and_removed_fields():
    base = {"a": 1, "b": None, "c": 3, "train.output_dir": "x"}
    config = {"a": 1, "b": 2, "d": "|", "train.output_dir": "y", "train.source.command": "z"}
    assert differences(base, config) == [
        ("b", "None", "2"),
        ("c", "3", "(not set)"),
        ("d", "(not set)", "|"),
    ]


def test_a_model_in_the_config_is_no_difference(config):
    before = flat_config(config)
    config.optimizer.params.model = nn.Linear(2, 2)
    assert flat_config(config).keys() - before.keys() == set()


def test_images_of_a_loader_that_does_not_tell_are_not_counted():
    assert count_images(iter([1, 2])) is None
    assert count_images(torch.utils.data.DataLoader([1, 2, 3], batch_size=2)) == 3


def test_the_hardware_is_named():
    found = hardware(torch.device("cpu"))
    assert found["processes"] == "1 (alone)"
    assert "cores" in found["device"]


class Run:
    """Evaluations of a training, as the hook sees them."""

    iter, max_iter = -1, 100

    def __init__(self, folder, metric, ema=None, start_iter=0):
        self.start_iter = start_iter
        self.model = nn.Linear(1, 1)
        checkpointer = Checkpointer(self.model, str(folder), **({"ema": ema} if ema else {}))
        self.best = BestCheckpointer(1, checkpointer, metric)
        self.best.trainer = self
        self.best.before_train()
        self.storage = EventStorage(0)

    def evaluate(self, value, name="sem_seg/mIoU"):
        self.iter += 1
        self.storage.iter = self.iter
        self.storage.put_scalar(name, value, smoothing_hint=False)
        with torch.no_grad():
            self.model.weight.fill_(value)
        self.best.after_step()


def kept(folder):
    return torch.load(folder / "model_best.pth", weights_only=True)["model"]["weight"].item()


def test_the_best_is_kept_and_is_not_what_a_run_continues_from(tmp_path):
    run = Run(tmp_path, "auto")
    for value in (2.0, float("nan"), 3.0, 1.0):
        run.evaluate(value)
    assert kept(tmp_path) == 3.0
    assert run.best.metric == "sem_seg/mIoU"
    assert not (tmp_path / "last_checkpoint").exists()
    assert not Checkpointer(run.model, str(tmp_path)).has_checkpoint()


def test_a_resumed_run_does_not_replace_the_best_by_a_worse(tmp_path):
    run = Run(tmp_path, "auto")
    run.evaluate(3.0)
    resumed = Run(tmp_path, "auto", start_iter=1)
    resumed.evaluate(2.0)
    assert kept(tmp_path) == 3.0
    assert resumed.best.metric == "sem_seg/mIoU"
    other = Run(tmp_path, "bbox/AP", start_iter=1)
    other.evaluate(1.0, "bbox/AP")
    assert kept(tmp_path) == 1.0


def test_a_new_run_and_one_whose_best_is_damaged_start_without_a_best(tmp_path, caplog):
    Run(tmp_path, "auto").evaluate(3.0)
    Run(tmp_path, "auto").evaluate(2.0)
    assert kept(tmp_path) == 2.0
    (tmp_path / "model_best.pth").write_bytes(b"PK")
    Run(tmp_path, "auto", start_iter=1).evaluate(1.0)
    assert kept(tmp_path) == 1.0
    assert "The next evaluation counts as the best: " in caplog.text


def test_a_metric_that_there_is_not_is_told_and_replaced(tmp_path, caplog):
    run = Run(tmp_path, "sem_seg/mIuo")
    run.evaluate(2.0)
    assert kept(tmp_path) == 2.0 and run.best.metric == "sem_seg/mIoU"
    assert "nearest: sem_seg/mIoU; sem_seg/mIoU takes its place" in caplog.text
    run.evaluate(3.0, "bbox/AP")  # what is compared already stays
    assert kept(tmp_path) == 2.0 and run.best.metric == "sem_seg/mIoU"


def test_the_metric_may_be_named_and_the_averages_are_kept_too(tmp_path):
    model = nn.Linear(1, 1)
    run = Run(tmp_path, "segm/APs", ema=ModelEma(model, 0.5))
    run.evaluate(1.0, "segm/APs")
    saved = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert sorted(saved) == ["best", "ema", "iteration", "model"]


def test_a_best_that_cannot_be_written_is_not_the_best(tmp_path, monkeypatch, caplog):
    run = Run(tmp_path, "auto")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpointer, "save", full)
        run.evaluate(2.0)
    assert "model_best.pth was not written: [Errno 28]" in caplog.text
    run.evaluate(1.0)
    assert kept(tmp_path) == 1.0
