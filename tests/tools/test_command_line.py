"""The tools as a user runs them, on the generated data set in miniature."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "configs/shapes/mask2former_vit_adapter_quickstart.py"


def run(*arguments, datasets=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    if datasets is not None:
        environment["DETECTRON2_DATASETS"] = str(datasets)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tiny_root, tmp_path_factory):
    """Output folder of two training iterations."""
    output = tmp_path_factory.mktemp("trained")
    done = run(
        "tools/train_net.py",
        "--config-file",
        CONFIG,
        f"train.output_dir={output}",
        "train.max_iter=2",
        "train.device=cpu",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.criterion.num_points=64",
        datasets=tiny_root.parent,
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_training_ends_in_the_metrics(trained):
    output, log = trained
    *_, where, line = log.strip().splitlines()
    assert str(output) in where
    assert [word for word in line.split() if not word[0].isdigit()] == [
        "PQ",
        "box",
        "AP",
        "mask",
        "AP",
        "mIoU",
    ]
    for name in ("config.yaml", "log.txt", "metrics.json", "model_final.pth", "last_checkpoint"):
        assert (output / name).is_file()


def test_evaluation_only_repeats_the_line_and_keeps_the_numbers(trained, tiny_root, tmp_path):
    output, log = trained
    done = run(
        "tools/train_net.py",
        f"train.init_checkpoint={output / 'model_final.pth'}",
        f"train.output_dir={tmp_path}",
        "--config-file",
        CONFIG,
        "train.device=cpu",
        "--eval-only",  # flags may come anywhere
        datasets=tiny_root.parent,
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip().splitlines()[-1]
    assert line == log.strip().splitlines()[-1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert line.startswith(f"PQ {results['panoptic_seg']['PQ']:.1f}")
    assert {"bbox", "segm", "sem_seg"} < results.keys()


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--eval-only"], "output/quickstart/evaluation"),
        (["--eval-only", "train.output_dir=mine"], "mine"),
        ([], "output/quickstart"),
    ],
)
def test_evaluation_only_stays_out_of_the_folder_of_a_run(monkeypatch, arguments, folder):
    tool = runpy.run_path(str(ROOT / "tools/train_net.py"))
    config = ["--config-file", "shapes/mask2former_vit_adapter_quickstart"]
    monkeypatch.setattr(sys, "argv", ["train_net.py", *config, *arguments])
    assert tool["read"](tool["parse_arguments"]()).train.output_dir == folder


def test_evaluation_only_takes_the_newest_checkpoint_of_the_folder(monkeypatch, tmp_path):
    tool = runpy.run_path(str(ROOT / "tools/train_net.py"))
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    config = ["--config-file", "shapes/mask2former_vit_adapter_quickstart", "--eval-only"]
    for given, taken in (("", str(tmp_path / "model_0000003.pth")), ("other.pth", "other.pth")):
        output = [f"train.output_dir={tmp_path}", f"train.init_checkpoint={given}"]
        monkeypatch.setattr(sys, "argv", ["train_net.py", *config, *output])
        cfg = tool["read"](tool["parse_arguments"]())
        assert cfg.train.init_checkpoint == taken
        assert cfg.train.output_dir == str(tmp_path / "evaluation")


def test_evaluation_only_needs_weights(tmp_path):
    done = run(
        "tools/train_net.py", "--config-file", CONFIG, "--eval-only", f"train.output_dir={tmp_path}"
    )
    assert done.returncode == 1
    assert "--eval-only evaluates train.init_checkpoint=FILE: weights of" in done.stderr


def test_analyze_model_counts_without_allocating():
    done = run("tools/analyze_model.py", "coco/mask_rcnn_augreg_adapter_large_fpn_1x_coco")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["total", "347.927"]


def test_two_processes_train_and_evaluate_together(tiny_root, tmp_path):
    done = run(
        "tools/train_net.py",
        "--config-file",
        CONFIG,
        "--num-gpus",
        2,
        "--dist-url",
        "auto",
        f"train.output_dir={tmp_path}",
        "train.max_iter=1",
        "train.device=cpu",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.criterion.num_points=64",
        datasets=tiny_root.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("PQ ")


def test_training_takes_a_name_of_the_zoo_and_asks_for_one(tmp_path):
    done = run(
        "tools/train_net.py",
        "--config-file",
        "shapes/mask2former_vit_adapter_quickstart",
        "--eval-only",
        f"train.output_dir={tmp_path}",
    )
    assert "--eval-only evaluates train.init_checkpoint=FILE: weights of" in done.stderr
    assert run("tools/train_net.py").stderr.strip().endswith("a file or a name of the zoo")
