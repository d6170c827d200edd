"""tools/convert_checkpoint.py on small files in the original naming, one of each kind."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from original_files import (
    ORIGINALS,
    mask2former_fb,
    mask2former_mm,
    official_det,
    official_seg,
    randomized,
)

from vitadapter_d2.checkpoint.conversion import KINDS
from vitadapter_d2.engine.config.loading import load_config

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "convert_checkpoint.py"
CONFIG = """
from original_files import ORIGINALS as _ORIGINALS
from vitadapter_d2 import model_zoo

model = model_zoo.get_config("shapes/mask2former_vit_adapter_quickstart").model
if "{trunk}":
    model.backbone.vit.model = _ORIGINALS["{trunk}"].model
"""
WHOLE = {
    "official_seg": official_seg,
    "official_det": official_det,
    "mask2former_mm": mask2former_mm,
    "mask2former_fb": mask2former_fb,
    "vitadapter_d2": lambda state: {"model": state, "iteration": 3},
}


@pytest.fixture(scope="module")
def main():
    """The tool's main, in this process: a start takes longer than all of its work."""
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main


@pytest.fixture
def convert(main, tmp_path, monkeypatch, capsys):
    """Runs the tool; returns the exit status and what it printed."""

    def run(source, trunk="", *options):
        config = tmp_path / "config.py"
        config.write_text(CONFIG.format(trunk=trunk))
        arguments = [source, tmp_path / "new" / "model.pth", "--config-file", config, *options]
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        status = main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def whole_model(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.format(trunk=""))
    return randomized(instantiate(load_config(tmp_path / "config.py").model))


def result(tmp_path):
    tensors = torch.load(tmp_path / "new" / "model.pth", weights_only=True)["model"]
    return tensors, json.loads((tmp_path / "new" / "model.report.json").read_text())


@pytest.mark.parametrize("name", ORIGINALS)
def test_pre_trained_trunks(name, convert, tmp_path):
    original = ORIGINALS[name]
    source = original.build()
    status, printed, errors = convert(original.write(source, tmp_path), name)
    assert (status, errors) == (0, "")
    assert printed.startswith(f"checkpoint of kind {original.kind}: ")
    tensors, report = result(tmp_path)
    weight = source.blocks[3].norm2.weight
    torch.testing.assert_close(tensors["backbone.vit.blocks.3.norm2.weight"], weight)
    model = instantiate(load_config(tmp_path / "config.py").model)
    missing = model.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    counters = {name for name in report["fresh"] if name.endswith("num_batches_tracked")}
    assert set(missing.missing_keys) == report["fresh"].keys() - counters  # torch makes these up
    assert not [name for name in missing.missing_keys if name.startswith("backbone.vit.")]


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_models_and_heads(kind, convert, tmp_path):
    state = whole_model(tmp_path).state_dict()
    torch.save(WHOLE[kind](state), tmp_path / "original.pth")
    status, printed, errors = convert(tmp_path / "original.pth")
    assert (status, errors) == (0, "")
    tensors, report = result(tmp_path)
    assert report["kind"] == kind and report["summary"] == printed.splitlines()[0]
    assert set(tensors) | set(report["fresh"]) | set(report["given"]) == set(state)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, state[name])


def test_every_kind_has_a_file_here():
    assert set(KINDS) == {*WHOLE, *(original.kind for original in ORIGINALS.values())}


def test_averaged_weights(convert, tmp_path):
    state = whole_model(tmp_path).state_dict()
    torch.save(official_det(state), tmp_path / "original.pth")
    assert convert(tmp_path / "original.pth", "", "--ema")[0] == 0
    tensors, _ = result(tmp_path)
    torch.testing.assert_close(tensors["backbone.level_embed"], state["backbone.level_embed"] + 1)


def test_overrides_change_the_model(convert, tmp_path):
    original = ORIGINALS["timm"]
    path = original.write(original.build(), tmp_path)
    status, printed, _ = convert(path, "", "model.backbone.vit.model.img_size=160")
    assert status == 0
    assert "  resized backbone.vit.pos_embed: (1, 65, 64) -> (1, 101, 64), grid 8x8" in printed


def refused(convert, tmp_path, source, *options):
    """What the tool says; it writes nothing."""
    before = sorted(tmp_path.rglob("*.pth"))
    status, printed, errors = convert(source, "", *options)
    assert (status, printed) == (1, "")
    assert sorted(tmp_path.rglob("*.pth")) == before
    return errors


class Payload:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['PAYLOAD']}",)


def test_a_malicious_file_is_refused_and_not_run(convert, tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "executed"))
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"x": torch.ones(1)}, "meta": Payload()}, path)
    sentence = refused(convert, tmp_path, path)
    assert "evil.pth holds more than tensors (posix.system)" in sentence and "--trust" in sentence
    assert not (tmp_path / "executed").exists()


def test_damaged_renamed_and_wrong_files_are_refused(convert, tmp_path):
    state = whole_model(tmp_path).state_dict()
    path = tmp_path / "file.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    sentence = refused(convert, tmp_path, path)
    assert "file.pth is damaged or incomplete" in sentence and sentence.count("\n") == 1
    torch.save({f"net.{name}": part for name, part in state.items()}, path)
    assert "nothing in the file belongs to this model" in refused(convert, tmp_path, path)
    torch.save(state, path)
    sentence = refused(convert, tmp_path, path, "model.criterion.num_classes=5")
    assert "of another size than the model" in sentence
    assert "no checkpoint at" in refused(convert, tmp_path, tmp_path / "nothing.pth")
    address = "http://127.0.0.1:9/x.pth"
    assert f"{address} cannot be downloaded" in refused(convert, tmp_path, address)


def test_part_of_a_file_is_taken_when_that_is_allowed(convert, tmp_path):
    state = whole_model(tmp_path).state_dict()
    torch.save(state, tmp_path / "file.pth")
    override = "model.criterion.num_classes=5"
    status, printed, _ = convert(tmp_path / "file.pth", "", "--allow-partial", override)
    assert status == 0 and "3 misfits" in printed
    tensors, report = result(tmp_path)
    assert len(tensors) == len(state) - 3 == len(report["matched"])


def test_nothing_is_overwritten_unless_that_is_asked_for(convert, tmp_path):
    original = ORIGINALS["timm"]
    path = original.write(original.build(), tmp_path)
    assert convert(path)[0] == 0
    written = (tmp_path / "new" / "model.pth").read_bytes()
    assert "model.pth is there already; --overwrite replaces it" in refused(convert, tmp_path, path)
    assert (tmp_path / "new" / "model.pth").read_bytes() == written
    assert convert(original.write(original.build(), tmp_path), "", "--overwrite")[0] == 0
    assert (tmp_path / "new" / "model.pth").read_bytes() != written


def test_a_target_that_cannot_be_written_is_one_sentence(convert, tmp_path):
    original = ORIGINALS["timm"]
    path = original.write(original.build(), tmp_path)
    (tmp_path / "new" / "model.pth").mkdir(parents=True)
    status, printed, errors = convert(path, "", "--overwrite")
    assert (status, printed) == (1, "")
    assert "model.pth" in errors and errors.count("\n") == 1
    assert not (tmp_path / "new" / "model.report.json").exists()


def test_the_command_line_as_a_user_types_it(tmp_path):
    original = ORIGINALS["augreg"]
    target = tmp_path / "model.pth"
    done = subprocess.run(
        [sys.executable, TOOL, original.write(original.build(), tmp_path), target]
        + ["--config-file", "shapes/mask2former_vit_adapter_quickstart", "--kind", "augreg"]
        + ["model.backbone.vit.model.img_size=128"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("checkpoint of kind augreg: 51 renamed")
    assert done.stdout.splitlines()[-1].startswith(f"written to {target}, all names to ")
    assert target.is_file() and (tmp_path / "model.report.json").is_file()
