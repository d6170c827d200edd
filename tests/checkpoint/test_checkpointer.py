import os
import pickle

import pytest
import torch
from original_files import ORIGINALS
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.modeling.backbone import PlainViTPyramid, frozen, plain_vit


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
    with pytest.raises(ValueError, match=r"evil.pth holds more than tensors \(posix.mkdir\)"):
        Checkpointer(nn.Linear(1, 1)).load(str(tmp_path / "evil.pth"))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Payload()}))
    with pytest.raises(ValueError, match="is a pickle, which can run any code"):
        Checkpointer(nn.Linear(1, 1)).load(str(tmp_path / "evil.pkl"))
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


def linears():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


def half_frozen():
    model = linears()
    model[0].requires_grad_(False)
    return model


def test_only_what_was_trained_is_saved_when_asked_for(tmp_path, caplog):
    model = half_frozen()
    model[1].running_mean += 1
    Checkpointer(model, str(tmp_path), trained_only=True).save("model_final")
    stored = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert stored["model"].keys() == model.state_dict().keys() - {"0.weight", "0.bias"}
    other = half_frozen()
    other[0].load_state_dict(model[0].state_dict())
    kept = other[0].weight.clone()
    with caplog.at_level("INFO"):
        assert not Checkpointer(other).load(str(tmp_path / "model_final.pth"))
    assert "2 frozen parameters stay as they are: 0.weight, 0.bias" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    torch.testing.assert_close(other[0].weight, kept)
    torch.testing.assert_close(other[1].running_mean, model[1].running_mean)
    torch.testing.assert_close(other[2].weight, model[2].weight)


def test_what_should_have_been_trained_is_warned_of(tmp_path, caplog):
    Checkpointer(half_frozen(), str(tmp_path), trained_only=True).save("model_final")
    with caplog.at_level("WARNING"):
        Checkpointer(linears()).load(str(tmp_path / "model_final.pth"))
    assert "2 tensors that the file lacks start fresh: 0.weight, 0.bias" in caplog.text


def test_resuming_takes_frozen_parameters_from_the_start(tmp_path):
    model, start = half_frozen(), str(tmp_path / "start" / "start.pth")
    Checkpointer(model, str(tmp_path / "start")).save("start")
    nn.init.zeros_(model[2].weight)
    Checkpointer(model, str(tmp_path), trained_only=True).save("model_1", iteration=1)
    for trained_only in (True, False):  # what counts is the file
        resumed = half_frozen()
        checkpointer = Checkpointer(resumed, str(tmp_path), trained_only=trained_only)
        assert checkpointer.resume_or_load(start, resume=True)["iteration"] == 1
        torch.testing.assert_close(resumed.state_dict(), model.state_dict())


def test_what_was_trained_alone_is_no_start_without_the_rest(tmp_path):
    Checkpointer(half_frozen(), str(tmp_path), trained_only=True).save("model_1")
    Checkpointer(half_frozen(), str(tmp_path / "start")).save("another")
    for start in ("", str(tmp_path / "start" / "another.pth")):
        with pytest.raises(ValueError, match=r"what was not, 0.weight, 0.bias, must come from"):
            Checkpointer(half_frozen(), str(tmp_path)).resume_or_load(start, resume=True)
    with pytest.raises(ValueError, match="train.init_checkpoint names none"):
        Checkpointer(half_frozen()).resume_or_load(str(tmp_path / "model_1.pth"), resume=False)


def test_the_checkpoint_of_the_latest_iteration_takes_the_place_of_a_damaged_one(tmp_path):
    for number in (199, 99, 299):  # as after copying, the times of the files say nothing
        Checkpointer(linears(), str(tmp_path)).save(f"model_{number:07}", iteration=number)
    (tmp_path / "model_0000299.pth").write_bytes(b"PK")
    assert Checkpointer(linears(), str(tmp_path)).resume_or_load("")["iteration"] == 199


def test_names_are_matched_by_their_ends_where_a_file_asks_for_it(tmp_path):
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"stem": nn.Linear(2, 2)})})
    content = {"stem.weight": torch.ones(2, 2).numpy(), "stem.bias": torch.ones(2).numpy()}
    with (tmp_path / "R-50.pkl").open("wb") as file:
        pickle.dump({"model": content, "__author__": "x", "matching_heuristics": True}, file)
    Checkpointer(model).load(str(tmp_path / "R-50.pkl"))
    assert model["backbone"]["stem"].weight.eq(1).all()


def test_an_original_file_is_converted_as_it_is_loaded(tmp_path, caplog):
    original = ORIGINALS["augreg"]
    source = original.build()
    trunk = plain_vit(original.build())
    checkpointer = Checkpointer(nn.ModuleDict({"vit": trunk, "head": nn.Linear(2, 2)}))
    head = checkpointer.model["head"].weight.clone()
    with caplog.at_level("INFO"):
        extra = checkpointer.load(str(original.write(source, tmp_path)))
    assert extra == {} and checkpointer.report.kind == "augreg"
    assert "checkpoint of kind augreg: 51 renamed, 2 new" in caplog.text
    torch.testing.assert_close(trunk.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
    torch.testing.assert_close(checkpointer.model["head"].weight, head)


def test_a_file_of_another_size_or_model_is_refused(tmp_path):
    original = ORIGINALS["timm"]
    path = str(original.write(original.build(), tmp_path))
    small = VisionTransformer(img_size=128, embed_dim=32, depth=4, num_heads=4)
    model = nn.ModuleDict({"vit": plain_vit(small)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="of another size than the model"):
        Checkpointer(model).load(path)
    Checkpointer(nn.Linear(1, 1), str(tmp_path)).save("linear")
    with pytest.raises(ValueError, match="nothing in .*linear.pth belongs to this model"):
        Checkpointer(model).load(str(tmp_path / "linear.pth"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_versions_of_modules_survive(tmp_path):
    """Modules with a past, such as Mask2Former's, read old entries in another way."""

    class Versioned(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, metadata, *args):
            seen.append(metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, metadata, *args)

    seen = []
    for trained_only in (False, True):
        checkpointer = Checkpointer(Versioned(2, 2), str(tmp_path), trained_only=trained_only)
        checkpointer.save("versioned")
        checkpointer.load(str(tmp_path / "versioned.pth"))
    assert seen == [3, 3]


def test_frozen_parameters_of_another_start_are_warned_of(tmp_path, caplog):
    Checkpointer(half_frozen(), str(tmp_path), trained_only=True).save("model_final")
    checkpointer = Checkpointer(half_frozen())
    with caplog.at_level("WARNING"):
        checkpointer.load(str(tmp_path / "model_final.pth"))
    assert "2 tensors that the file lacks start fresh: 0.weight, 0.bias" in caplog.text
    assert checkpointer.untouched == checkpointer.lacking == ["0.weight", "0.bias"]


def test_trained_weights_alone_are_no_file_of_another_project(tmp_path):
    """Beside a frozen trunk, a head and a pyramid have the names of Mask2Former's files."""

    def build():
        trunk = frozen(plain_vit(ORIGINALS["timm"].build()))
        head = nn.ModuleDict({"predictor": nn.Linear(2, 2)})
        return nn.ModuleDict(
            {"backbone": PlainViTPyramid(trunk, [0, 1, 2, 3]), "sem_seg_head": head}
        )

    model, other = build(), build()
    Checkpointer(model, str(tmp_path), trained_only=True).save("model_1", iteration=1)
    assert Checkpointer(other).load(str(tmp_path / "model_1.pth")) == {"iteration": 1}
    for part in ("backbone.up1", "sem_seg_head"):
        for name, tensor in model.get_submodule(part).state_dict().items():
            assert torch.equal(other.get_submodule(part).state_dict()[name], tensor)


def test_a_compiled_model_has_the_names_of_the_plain_one(tmp_path):
    model, other = torch.compile(nn.Linear(3, 2)), nn.Linear(3, 2)
    Checkpointer(model, str(tmp_path)).save("model_final")
    for loaded in (other, torch.compile(other)):
        nn.init.zeros_(other.weight)
        Checkpointer(loaded).load(str(tmp_path / "model_final.pth"))
        torch.testing.assert_close(other.weight, model.weight)
