import os
import pickle

import pytest
import torch
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer


def test_saved_weights_load_again(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    Checkpointer(model, str(tmp_path)).save("model_final", iteration=7)
    extra = Checkpointer(other).load(str(tmp_path / "model_final.pth"))
    torch.testing.assert_close(other.weight, model.weight)
    assert extra["iteration"] == 7
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(tmp_path.glob("*.partial"))


def test_a_failed_write_keeps_the_good_file(tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    good = (tmp_path / "model_final.pth").read_bytes()

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    nn.init.zeros_(model.weight)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == good


class Payload:
    def __reduce__(self):
        return (os.mkdir, (os.environ["PAYLOAD"],))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "executed"))
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(pickle.UnpicklingError):
        Checkpointer(nn.Linear(1, 1)).load(str(tmp_path / "evil.pth"))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Payload()}))
    for query in ("", "?matching_heuristics=True"):
        with pytest.raises(ValueError, match="is a pickle, which can run any code"):
            Checkpointer(nn.Linear(1, 1)).load(f"{tmp_path / 'evil.pkl'}{query}")
    assert not (tmp_path / "executed").exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing.pth"):
        Checkpointer(nn.Linear(1, 1)).load(str(tmp_path / "nothing.pth"))


def test_a_failed_note_keeps_the_good_one(tmp_path, monkeypatch):
    checkpointer = Checkpointer(nn.Linear(3, 2), str(tmp_path))
    checkpointer.tag_last_checkpoint("model_1.pth")

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.tag_last_checkpoint("model_2.pth")
    assert (tmp_path / "last_checkpoint").read_text() == "model_1.pth"
    assert len(list(tmp_path.iterdir())) == 1
