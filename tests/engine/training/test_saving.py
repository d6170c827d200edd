import logging
from pathlib import Path

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.training.saving import (
    PeriodicCheckpointer,
    drop_repeated,
    moved,
    newest_aside,
    set_aside,
)


class Runner(TrainerBase):
    """Iterations that do nothing, or something once."""

    def __init__(self, folder, keep=2, once=None, eval_period=0):
        super().__init__()
        self.checkpointer = Checkpointer(nn.Linear(2, 2), str(folder), trainer=self)
        options = {"max_to_keep": keep, "eval_period": eval_period}
        self.register_hooks([PeriodicCheckpointer(self.checkpointer, 2, **options)])
        self.once = once or {}

    def run_step(self):
        self.once.get(self.iter, lambda: None)()


def names(folder):
    return sorted(file.name for file in folder.glob("*.pth"))


def test_checkpoints_from_before_a_resume_count(tmp_path):
    Runner(tmp_path).train(0, 7)
    assert names(tmp_path) == ["model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    (tmp_path / "model_other.pth").touch()
    Runner(tmp_path).train(6, 9)
    assert names(tmp_path) == [
        "model_0000005.pth",
        "model_0000007.pth",
        "model_final.pth",
        "model_other.pth",
    ]


def test_a_checkpoint_that_cannot_be_written_removes_no_other(tmp_path, caplog, monkeypatch):
    save = torch.save

    def full(*_):
        raise OSError(28, "No space left on device")

    once = {
        3: lambda: monkeypatch.setattr(torch, "save", full),
        4: lambda: monkeypatch.setattr(torch, "save", save),
    }
    with caplog.at_level(logging.WARNING):
        Runner(tmp_path, keep=1, once={**once, 5: once[3], 6: once[4]}).train(0, 7)
    assert names(tmp_path) == ["model_0000001.pth", "model_final.pth"]
    assert "NO CHECKPOINT of iteration 3: [Errno 28] No space left on device" in caplog.text
    assert "NO CHECKPOINT of iteration 5" in caplog.text


def test_the_last_checkpoint_must_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        Runner(tmp_path).train(0, 3)


def test_what_is_recorded_again_is_dropped(tmp_path):
    path = tmp_path / "metrics.json"
    assert not drop_repeated(path, 3)
    text = "".join(f'{{"iteration": {n}, "loss": {n / 2}}}\n' for n in (0, 2, 1, 3, 2))
    path.write_text(text + '{"iteration": 1, "lo')
    assert drop_repeated(path, 3)
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:3])
    assert not drop_repeated(path, 2 + 2)
    assert drop_repeated(path, 1)
    assert path.read_text() == '{"iteration": 0, "loss": 0.0}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_in_the_folder_of_another_is_not_taken_for_it(tmp_path):
    assert set_aside(tmp_path) is None
    for number in range(1, 12):
        Runner(tmp_path).train(0, 1)
        for name in ("metrics.json", "model_best.pth", "events.out.tfevents.1.host", "config.yaml"):
            (tmp_path / name).write_text(str(number))
        aside = set_aside(tmp_path)
        assert aside == newest_aside(tmp_path) == tmp_path / f"earlier_{number}"
        assert sorted(file.name for file in aside.iterdir()) == [
            "events.out.tfevents.1.host",
            "last_checkpoint",
            "metrics.json",
            "model_best.pth",
            "model_final.pth",
        ]
        assert (aside / "metrics.json").read_text() == str(number)
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["config.yaml"]
    (aside / "last_checkpoint").unlink()  # that run had none
    assert newest_aside(tmp_path) == tmp_path / "earlier_10"


def test_a_start_that_was_moved_is_found(tmp_path):
    aside = tmp_path / "earlier_1"
    aside.mkdir()
    (aside / "model_final.pth").touch()
    start = str(tmp_path / "model_final.pth")
    (tmp_path / "earlier_2").mkdir()
    assert moved(start, tmp_path) == str(aside / "model_final.pth")
    for path in ("", "https://host/model_final.pth", "elsewhere.pth", str(tmp_path / "other.pth")):
        assert moved(path, tmp_path) == path
    Path(start).touch()  # there is another one
    assert moved(start, tmp_path) == start


def test_what_is_evaluated_is_saved_first(tmp_path):
    Runner(tmp_path, keep=3, eval_period=3).train(0, 7)
    assert names(tmp_path) == [
        "model_0000002.pth",  # evaluated
        "model_0000003.pth",
        "model_0000005.pth",  # both
        "model_final.pth",
    ]


def test_the_last_evaluation_of_a_run_that_is_extended_stays_on_record(tmp_path):
    path = tmp_path / "metrics.json"
    text = '{"iteration": 2, "total_loss": 1.0}\n{"iteration": 3, "sem_seg/mIoU": 5.0}\n'
    path.write_text(text)
    assert drop_repeated(path, 3, is_extended=True)
    assert path.read_text() == '{"iteration": 2, "sem_seg/mIoU": 5.0, "total_loss": 1.0}\n'
    path.write_text(text)
    assert drop_repeated(path, 3)  # it is evaluated again
    assert path.read_text() == text.splitlines(keepends=True)[0]
