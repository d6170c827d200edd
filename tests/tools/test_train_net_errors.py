"""What goes wrong in a training is told in one sentence, and the exit status is 1."""

import os
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.launching.preflight import check_run, check_weights

ROOT = Path(__file__).parents[2]
CONFIG = "shapes/mask2former_vit_adapter_quickstart"


@pytest.fixture
def told(monkeypatch, capsys, tmp_path, tiny_root):
    """Runs the tool in this process; its exit status must be 1. Gives what it printed as errors."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_root.parent))

    def run(*overrides, flags=(), config=CONFIG):
        output = () if any("output_dir" in text for text in overrides) else (f"{tmp_path / 'out'}",)
        argv = ["--config-file", config, *flags, *(f"train.output_dir={path}" for path in output)]
        monkeypatch.setattr(sys, "argv", ["train_net.py", *map(str, (*argv, *overrides))])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools/train_net.py"), run_name="__main__")
        assert ended.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("overrides", "flags", "sentence"),
    [
        (["train.max_itre=3"], [], "no field train.max_itre: train has no 'max_itre'"),
        (
            ["train.init_checkpoint=no.pth"],
            [],
            f"train.init_checkpoint=no.pth: {Path.cwd()}/no.pth",
        ),
        (["train.init_checkpoint=no.pth"], ["--eval-only"], "does not exist; a file or a URL"),
        ([], ["--eval-only"], "--eval-only evaluates train.init_checkpoint=FILE: weights of a"),
        (["train.device=cuda"], [], "sees no GPU; train.device=cpu runs on the CPU"),
        (["train.device=gpu"], [], "train.device must be cpu or cuda, got 'gpu'"),
        (
            ["dataloader.train.dataset.names=shape_train_panoptic"],
            [],
            "dataloader.train.dataset.names: no data set is called shape_train_panoptic; nearest: "
            "shapes_train_panoptic, ",
        ),
        (
            ["dataloader.evaluator.1.dataset_name=shape_val"],
            [],
            "dataloader.evaluator.1.dataset_name: no data set is called shape_val",
        ),
        (
            ["dataloader.train.total_batch_size=3", "train.device=cpu"],
            ["--num-gpus", 2],
            "dataloader.train.total_batch_size=3 cannot be shared by 2 processes",
        ),
        (
            ["dataloader.train.total_batch_size=4", "train.accumulate=3"],
            [],
            "must be a multiple of their number times train.accumulate=3",
        ),
        (["train.log_period=0"], [], "train.log_period must be a whole number of at least 1, got"),
        (["train.max_iter=1e3"], [], "train.max_iter must be a whole number of at least 1, got 10"),
        (["train.seed=1.5"], [], "train.seed must be a whole number of at least -1, got 1.5"),
        (["+train.eval_period=null"], [], "train.eval_period must be a whole number of at least 0"),
        (
            ["+train.max_iter=true"],
            [],
            "train.max_iter must be a whole number of at least 1, got",
        ),
        (["dataloader.train.num_workers=-1"], [], "dataloader.train.num_workers must be a whole"),
        (["train.clip_grad_norm=-1"], [], "train.clip_grad_norm must be a number above 0, or null"),
        (["+train.output_dir=2024"], [], "train.output_dir must be text, got 2024"),
        (
            ["dataloader.test.dataset.names=[shapes_val_panoptic,shapes_train_panoptic]"],
            [],
            "an evaluator takes one data set, so dataloader.test.dataset.names must be one name",
        ),
        (["train.amp.dtype=fp16"], [], "train.amp.dtype must be bfloat16 or float16, got 'fp16'"),
        ([], ["--num-gpus", 0], "--num-gpus and --num-machines must be at least 1"),
        ([], ["--num-machines", 2], "--num-machines 2 needs --dist-url tcp://HOST:PORT"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(told, overrides, flags, sentence):
    assert sentence in told(*overrides, flags=flags)


def test_a_resume_that_starts_anew_beside_an_older_run_says_so(tmp_path):
    cfg = load_config(CONFIG, [f"train.output_dir={tmp_path}", "train.device=cpu"])
    flags = Namespace(opts=[], resume=True, eval_only=False)
    (remark,) = check_run(cfg, flags, 1, 1)
    assert remark == f"--resume: no checkpoint in {tmp_path} yet, starting from nothing"
    (tmp_path / "earlier_2").mkdir()
    (tmp_path / "earlier_2" / "last_checkpoint").write_text("model_final.pth")
    (remark,) = check_run(cfg, flags, 1, 1)
    assert remark.endswith(f"train.output_dir={tmp_path / 'earlier_2'} continues it")


def test_gpus_that_are_not_there_are_not_replaced_by_the_cpu_without_a_word(told, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    text = told(flags=["--num-gpus", 8])
    assert text.startswith("8 processes on this machine need as many GPUs, and torch ")
    assert "CUDA_VISIBLE_DEVICES='7') sees no GPU; train.device=cpu runs them on the CPU" in text


def test_a_wrong_config_names_the_nearest(told):
    text = told(config="shapes/mask2former_quickstart")
    assert f"neither a file nor a name of the zoo; nearest: {CONFIG}, " in text


def test_a_file_that_is_no_checkpoint_is_named(told):
    data = ["dataloader.train.dataset.names=tiny_train_panoptic"]
    data += ["dataloader.test.dataset.names=tiny_val_panoptic"]
    data += [f"dataloader.evaluator.{i}.dataset_name=tiny_val_panoptic" for i in range(4)]
    text = told(f"train.init_checkpoint={ROOT / 'README.md'}", "train.device=cpu", *data)
    assert text == f"{ROOT / 'README.md'} is no checkpoint: its first bytes are b'# vitada'"


def test_an_output_folder_that_cannot_be_is_named(told, tmp_path):
    (tmp_path / "file").write_text("")
    text = told(f"train.output_dir={tmp_path / 'file' / 'run'}")
    assert text.startswith(f"train.output_dir={tmp_path / 'file' / 'run'} cannot be written to: ")
    assert "Not a directory" in text


def test_a_run_that_goes_on_needs_no_start(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    train = {"output_dir": str(tmp_path), "init_checkpoint": "no.pth"}
    cfg = OmegaConf.create({"train": train})
    check_weights(cfg, resume=True)
    with pytest.raises(ConfigError, match="no.pth does not exist"):
        check_weights(cfg, resume=False)
    cfg.train.trained_only = True  # its frozen parameters are in the start alone
    with pytest.raises(ConfigError, match="no.pth does not exist"):
        check_weights(cfg, resume=True)
    cfg.train.init_checkpoint = "https://example.org/is/not/tried.pth"
    check_weights(cfg, resume=False)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "tools/train_net.py", *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
        capture_output=True,
        text=True,
    )


def test_missing_data_are_told_once_by_two_processes(tmp_path):
    """And a folder that another run has used is told of."""
    output = tmp_path / "output"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0000099.pth")
    (output / "log.txt").write_text(
        "[01/02] Command line arguments: Namespace(config_file='configs/mine.py', resume=False)\n"
    )
    done = run(
        "--config-file",
        CONFIG,
        "--num-gpus",
        2,
        "--dist-url",
        "auto",
        f"train.output_dir={output}",
        "train.device=cpu",
        DETECTRON2_DATASETS=str(tmp_path / "nowhere"),
    )
    assert done.returncode == 1
    missing = tmp_path / "nowhere/shapes/annotations/panoptic_val.json"
    place = "data set shapes_val_panoptic (dataloader.test.dataset.names) lacks"
    assert done.stderr.count(f"{place} {missing}: data sets are looked for below") == 1
    assert "Traceback" not in done.stderr
    assert (
        f"warning: {output} holds a run of configs/mine.py, last checkpoint model_0000099.pth: "
        "its checkpoints and records are moved" in done.stderr
    )


def test_of_processes_that_torchrun_starts_one_speaks(monkeypatch, told, capsys):
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        argv = ["train_net.py", "--config-file", "nothing"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools/train_net.py"), run_name="__main__")
        assert ended.value.code == 1
        assert ("neither a file" in capsys.readouterr().err) == (rank == "0")
