"""Real processes: spawned, and started by torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from omegaconf import OmegaConf
from torch import distributed
from torch.multiprocessing import get_start_method

from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.launching.launch import launch
from vitadapter_d2.engine.launching.places import Place, check_flags, given_place
from vitadapter_d2.files import held

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).parent / "launched_config.py"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def train(output, tiny_root, *options, launcher=()):
    """A run of tools/train_net.py on the CPU."""
    paths = os.pathsep.join((str(ROOT), str(CONFIG.parent)))
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "CUDA_VISIBLE_DEVICES": "",
        "DETECTRON2_DATASETS": str(tiny_root.parent),
    }
    options = ("--config-file", CONFIG, f"train.output_dir={output}", *options)
    return subprocess.run(
        [sys.executable, *map(str, (*launcher, "tools/train_net.py", *options))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def flags(**others):
    return Namespace(
        **{
            "num_gpus": 2,
            "num_machines": 1,
            "machine_rank": 0,
            "dist_url": "auto",
            "resume": False,
            "eval_only": False,
            "opts": ["train.device=cpu"],
            **others,
        }
    )


def read(args):
    return OmegaConf.create(
        {"train": {"device": "cpu", "init_checkpoint": "", "output_dir": args.output_dir}}
    )


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_torchrun_trains_and_evaluates_as_one_process_does(tiny_root, tmp_path):
    """Gradients, BatchNorm over all processes, and metrics gathered from them."""
    alone = train(tmp_path / "one", tiny_root)
    assert alone.returncode == 0, alone.stderr
    together = train(tmp_path / "two", tiny_root, launcher=TORCHRUN)
    assert together.returncode == 0, together.stderr
    line = alone.stdout.splitlines()[-1]
    assert all(float(number) > 50 for number in re.findall(r"\d+\.\d", line)), line
    assert together.stdout.splitlines()[-1] == line
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    del expected["layer.1.num_batches_tracked"], found["layer.1.num_batches_tracked"]
    torch.testing.assert_close(found, expected)


def test_a_killed_process_is_started_again_and_resumes(tiny_root, tmp_path):
    launcher = (*TORCHRUN, "--max-restarts", "1")
    options = ("model.kill_at=3", "dataloader.evaluator=[]")
    done = train(tmp_path, tiny_root, *options, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Starting training from iteration (\d+)", done.stdout) == ["0", "3"]
    assert "failed (exitcode: -9) local_rank: 1" in done.stderr
    assert "Traceback" not in done.stderr


def groups(args):
    """What Detectron2 knows in each process."""
    told = {
        "rank": comm.get_rank(),
        "local_rank": comm.get_local_rank(),
        "local_size": comm.get_local_size(),
        "gathered": comm.all_gather(comm.get_rank()),
        "backend": distributed.get_backend(),
        "start_method": get_start_method(),
    }
    Path(args.output_dir, f"{comm.get_rank()}.txt").write_text(repr(told))
    comm.synchronize()
    raise ConfigError("what every process finds wrong")


def test_spawned_processes_know_each_other_and_tell_an_error_once(tmp_path, no_gpu, capfd):
    assert launch(groups, flags(output_dir=str(tmp_path)), read) == 1
    for rank in range(2):
        assert eval((tmp_path / f"{rank}.txt").read_text()) == {
            "rank": rank,
            "local_rank": rank,
            "local_size": 2,
            "gathered": [0, 1],
            "backend": "gloo",
            "start_method": get_start_method(),  # not the one that starts themselves
        }
    told = capfd.readouterr().err
    assert "2 processes on this machine share" in told
    assert told.count("what every process finds wrong") == 1
    assert "Traceback" not in told


def die(args):
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def test_a_killed_process_ends_the_others_and_is_named(tmp_path, no_gpu, capfd):
    assert launch(die, flags(output_dir=str(tmp_path)), read) == 1
    told = capfd.readouterr().err
    assert "process 1 of 2 was ended by SIGKILL" in told
    assert "has lost another one" not in told and "Traceback" not in told


def leave(args):
    if comm.get_rank() == 1:
        os._exit(0)  # which nobody who watches finds wrong
    comm.synchronize()


def test_a_process_that_lost_another_one_says_so(tmp_path, no_gpu, capfd):
    assert launch(leave, flags(output_dir=str(tmp_path)), read) == 1
    told = capfd.readouterr().err
    assert "process 0 has lost another one, which died or does not answer (" in told
    assert "--resume continues from the newest checkpoint" in told and "Traceback" not in told


def press_ctrl_c(args):
    os.kill(os.getpid(), signal.SIGINT)
    comm.synchronize()


def test_ctrl_c_is_one_sentence(tmp_path, no_gpu, capfd):
    run = flags(output_dir=str(tmp_path), num_gpus=1)
    assert launch(press_ctrl_c, run, read) == 130
    told = capfd.readouterr().err
    assert told.startswith("interrupted; nothing was saved yet: train.checkpointer.period is")
    (tmp_path / "last_checkpoint").touch()
    assert launch(press_ctrl_c, run, read) == 130
    told = capfd.readouterr().err.splitlines()[-1]
    assert told == "interrupted; --resume continues from the newest checkpoint"


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path, no_gpu, capfd):
    taken, done = os.pipe(), os.pipe()
    if not (other := os.fork()):
        with held(tmp_path / ".running"):
            os.write(taken[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(taken[0], 1)
    run = flags(output_dir=str(tmp_path), num_gpus=1)
    assert launch(press_ctrl_c, run, read) == 1
    told = capfd.readouterr().err
    assert told.startswith(f"a run is writing to train.output_dir={tmp_path} (process {other} on")
    os.write(done[1], b"x")
    os.waitpid(other, 0)
    assert launch(press_ctrl_c, run, read) == 130
    assert not (tmp_path / ".running").exists()


def mistake(args):
    raise AttributeError("an error of the program")


@pytest.fixture
def launched(tiny_root, tmp_path):
    """Two processes that train for long, started by a script in its background; their ids."""
    paths = os.pathsep.join((str(ROOT), str(CONFIG.parent)))
    options = ("--config-file", CONFIG, "--num-gpus", "2", "--dist-url", "auto")
    options += ("train.max_iter=1000000", "train.checkpointer.period=1000000")
    options += ("train.device=cpu", f"train.output_dir={tmp_path}", "train.log_period=1")
    with (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *map(str, ("tools/train_net.py", *options))],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "CUDA_VISIBLE_DEVICES": "",
                "DETECTRON2_DATASETS": str(tiny_root.parent),
            },
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    metrics = tmp_path / "metrics.json"
    assert until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 1, 100)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(ranks) == 2
    yield process, ranks
    for pid in (process.pid, *ranks):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def until(condition, seconds=30):
    limit = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < limit:
        time.sleep(0.05)
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_processes_do_not_outlive_the_one_that_started_them(launched):
    process, ranks = launched
    process.kill()
    assert until(lambda: not any(map(is_running, ranks)))


def test_all_processes_save_and_end_when_the_first_is_asked_to(launched, tmp_path):
    process, ranks = launched
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not any(map(is_running, ranks))
    last = (tmp_path / "last_checkpoint").read_text()
    iteration = int(re.fullmatch(r"model_(\d{7})\.pth", last)[1])
    told = (tmp_path / "errors.txt").read_text()
    assert told.count(f"stopped after {iteration + 1} iterations; --resume continues there") == 1
    assert "Traceback" not in told


def test_an_error_of_the_program_keeps_its_traceback(tmp_path, no_gpu):
    with pytest.raises(AttributeError, match="of the program"):
        launch(mistake, flags(output_dir=str(tmp_path), num_gpus=1), read)


def test_a_port_that_is_taken_is_named(tmp_path, no_gpu, capfd):
    taken = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    args = flags(output_dir=str(tmp_path), dist_url=f"tcp://127.0.0.1:{taken.port}")
    assert launch(groups, args, read) == 1
    assert f"port {taken.port} of --dist-url" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"num_gpus": 0}, "must be at least 1, got 0"),
        ({"machine_rank": 1}, "--machine-rank must be 0 to 0"),
        ({"dist_url": "file:///nowhere"}, "tcp://HOST:PORT, got file:"),
        ({"num_machines": 2}, "--dist-url must be tcp://HOST:PORT, got auto"),
    ],
)
def test_flags_that_describe_nothing_are_refused(given, wrong):
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        check_flags(flags(**given))


def test_the_environment_gives_a_place_or_names_what_it_lacks(monkeypatch):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert given_place() is None  # as on a cluster that says how many machines there are
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"):
        given_place()
    for name, value in zip(names, ("3", "4", "1", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert given_place() == Place(rank=3, world_size=4, local_rank=1, local_size=2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="every machine needs as many"):
        given_place()
