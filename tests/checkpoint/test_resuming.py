import io
import os

import pytest
import torch
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer, write_errors


def flip(path):
    """One bit of the weights; torch loads such a file without a word."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((4,), 2.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.fixture
def run(tmp_path):
    """Three checkpoints whose weights are 0, 1, 2."""
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    for number, name in enumerate(("model_0000001", "model_0000003", "model_final")):
        nn.init.constant_(checkpointer.model.weight, number)
        checkpointer.save(name, iteration=number)
        os.utime(tmp_path / f"{name}.pth", (number, number))
    return tmp_path


def resume(run):
    checkpointer = Checkpointer(nn.Linear(2, 2), str(run))
    extra = checkpointer.resume_or_load("", resume=True)
    return extra["iteration"], checkpointer.model.weight[0, 0].item()


@pytest.mark.parametrize("damage", [flip, truncate, empty, remove])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, damage, caplog):
    damage(run / "model_final.pth")
    (run / "pretrained.pth").write_bytes(b"of another kind")
    with caplog.at_level("WARNING"):
        assert resume(run) == (1, 1.0)
    (warning,) = caplog.records
    assert str(run / "model_0000003.pth") in warning.getMessage()
    assert str(run / "model_final.pth") in warning.getMessage()


def test_the_noted_checkpoint_goes_before_newer_ones(run, caplog):
    (run / "last_checkpoint").write_text("model_0000001.pth")
    with caplog.at_level("WARNING"):
        assert resume(run) == (0, 0.0)
    assert not caplog.records


def test_an_empty_note_is_no_obstacle(run):
    (run / "last_checkpoint").write_text("")
    assert resume(run) == (2, 2.0)


def test_no_readable_checkpoint_is_an_error_that_names_them_all(run):
    for file in run.glob("*.pth"):
        empty(file)
    with pytest.raises(ValueError, match="no checkpoint to resume from") as told:
        resume(run)
    assert all(str(file) in str(told.value) for file in run.glob("*.pth"))


def test_without_a_note_there_is_nothing_to_resume(run):
    (run / "last_checkpoint").unlink()
    assert Checkpointer(nn.Linear(2, 2), str(run)).resume_or_load("", resume=True) == {}


def test_what_torch_says_of_a_full_disk_is_the_error_of_the_system():
    class Full(io.BytesIO):
        def write(self, content):
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().write(content)

    with pytest.raises(OSError, match="No space left"), write_errors():
        torch.save({"weight": torch.zeros(10)}, Full())
    with pytest.raises(RuntimeError, match="of another kind"), write_errors():
        raise RuntimeError("of another kind")
