"""tools/learn.py: what it reads from a training, and one row made for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import instantiate

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.loading import configs_root, load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from learn import FRAMEWORKS, Framework, Outcome, read_outcome  # noqa: E402


def test_every_framework_has_its_config():
    for name in FRAMEWORKS:
        assert (configs_root() / "shapes" / f"{name}_vit_adapter_shapes.py").is_file()


def test_losses_are_means_and_metrics_the_last(tmp_path):
    path = tmp_path / "metrics.json"
    losses = [{"iteration": 10 * i + 9, "total_loss": 40.0 - i} for i in range(20)]
    scores = [{"iteration": 99, "bbox/AP": 10.0}, {"iteration": 199, "bbox/AP": 50.0, "lr": 1.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in losses + scores))
    outcome = read_outcome(path)
    assert outcome == Outcome(200, 39.5, 21.5, {"bbox/AP": 50.0})


@pytest.mark.parametrize(
    ("metrics", "last_loss", "missed"),
    [
        ({"bbox/AP": 45.0}, 1.0, []),
        ({"bbox/AP": 44.9}, 1.0, ["bbox/AP 44.9 < 45"]),
        ({"bbox/AP": float("nan")}, 1.0, ["bbox/AP nan < 45"]),
        ({}, 1.0, ["bbox/AP 0.0 < 45"]),
        ({"bbox/AP": 50.0}, 2.0, ["loss 2.00 -> 2.00"]),
    ],
)
def test_bars(metrics, last_loss, missed):
    framework = Framework("one", {"bbox/AP": 45.0})
    assert Outcome(10, 2.0, last_loss, metrics).misses(framework) == missed


def run(*args, root=None):
    """The command, with the data sets below ``root``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if root:
        environment["DETECTRON2_DATASETS"] = str(root)
    command = [sys.executable, "tools/learn.py", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_one_row(tmp_path, tiny_root):
    model = instantiate(load_config("shapes/mask2former_vit_adapter_quickstart").model)
    Checkpointer(model, str(tmp_path)).save("trunk")
    overrides = ["train.max_iter=2", "train.log_period=1", "dataloader.train.total_batch_size=2"]
    flags = ["--trunk", tmp_path / "trunk.pth", "--only", "gfl", "--output", tmp_path / "learn"]
    done = run(*flags, "--opts", *overrides, root=tiny_root.parent)
    assert done.returncode == 1, done.stderr
    table = (tmp_path / "learn" / "table.md").read_text()
    assert table in done.stdout
    row = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert row[:2] == ["GFL", "2"]
    assert row[-1].startswith("bbox/AP ")


def test_a_failure_is_a_row(tmp_path, tiny_root):
    (tmp_path / "trunk.pth").write_bytes(b"no checkpoint")
    flags = ["--trunk", tmp_path / "trunk.pth", "--only", "gfl", "--output", tmp_path / "learn"]
    done = run(*flags, root=tiny_root.parent)
    assert done.returncode == 1
    assert "exit status 1, see" in done.stdout


def test_a_missing_trunk_is_named(tmp_path):
    done = run("--trunk", tmp_path / "none.pth")
    assert done.returncode == 2
    assert "none.pth does not exist; `make quickstart` trains it" in done.stderr
