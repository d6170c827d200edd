"""Runs of tools/train_net.py that are killed, for the tests of what comes after.

Their processes are forked from one that has imported everything, which saves most of the time.
"""

import io
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.evaluation import SemSegEvaluator
from vitadapter_d2.engine.config.loading import load_config

base = load_config("shapes/mask2former_vit_adapter_quickstart")
model, optimizer, lr_multiplier = base.model, base.optimizer, base.lr_multiplier
dataloader, train = base.dataloader, base.train
model.metadata.name = "killed_val_panoptic"
model.criterion.num_points = 16
dataloader.train.dataset.names = "killed_train_panoptic"
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 0
dataloader.test.dataset.names = "killed_val_panoptic"
dataloader.evaluator = L(SemSegEvaluator)(dataset_name="killed_val_panoptic")
train.max_iter = 8
train.log_period = 1
train.device = "cpu"
train.checkpointer = dict(period=3, max_to_keep=2)
"""
# What depends on the machine's load.
_MEASURED = {"time", "data_time", "eta_seconds", "data_share", "images_per_s"}

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["torch.utils.cpp_extension", "torch.utils.tensorboard", "vitadapter_d2.engine.train"]
)


class Run:
    """Processes of one training.

    Args:
        output: folder of the run.
        data: folder of the generated data set.
        overrides: of the config.
        processes: how many, as torchrun would start them.
        patch: name of a function of this module, a colon and its argument; called before the tool.
        patched: in this process.
    """

    def __init__(self, output, data, *overrides, processes=1, patch=None, patched=0, resume=True):
        output.mkdir(parents=True, exist_ok=True)
        self.output = output
        config = output.parent / "config.py"
        config.write_text(CONFIG)
        arguments = ["--config-file", str(config), *(["--resume"] if resume else [])]
        arguments += [f"train.output_dir={output}", *overrides]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            context.Process(
                target=_train,
                args=(arguments, data, rank, processes, port, patch if rank == patched else None),
            )
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    def kill_at(self, iteration, rank=0):
        """SIGKILL to one process once an iteration is on record; then as :meth:`end`."""
        while self.processes[rank].is_alive():
            if iteration in iterations(self.output):
                os.kill(self.processes[rank].pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        return self.end()

    def told(self):
        """All that was printed by the runs of this output folder."""
        return self.output.parent.joinpath("config.log").read_text()

    def end(self):
        """Waits; the exit codes."""
        for process in self.processes:
            process.join(240)
            assert not process.is_alive(), "a process hangs"
        return [process.exitcode for process in self.processes]


def _train(arguments, data, rank, processes, port, patch):
    from vitadapter_d2.data.datasets import register_shapes

    with Path(arguments[arguments.index("--config-file") + 1]).with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo, whatever the machine has
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers
    register_shapes(str(data), prefix="killed")
    if processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    if patch is not None:
        name, _, argument = patch.partition(":")
        globals()[name](argument)
    sys.argv = ["tools/train_net.py", *arguments]
    runpy.run_path(str(ROOT / "tools/train_net.py"), run_name="__main__")


def die_in_save(name):
    """Half of a checkpoint is on the disk, then the process is killed."""
    save = torch.save

    def die(data, file):
        buffer = io.BytesIO()
        save(data, buffer)
        if name not in file.name:
            file.write(buffer.getvalue())
            return
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = die


def die_in_test(_):
    """The process is killed while it evaluates."""
    from detectron2.evaluation import SemSegEvaluator

    SemSegEvaluator.process = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def limit_files(size):
    """No file may grow beyond a number of bytes, as if the disk were full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))


def die_in_step(call):
    """The process is killed behind the forward pass of its nth batch."""
    _after_forward(call, lambda losses: os.kill(os.getpid(), signal.SIGKILL))


def break_loss(call):
    """One loss of the nth batch of this process is no number."""
    _after_forward(call, lambda losses: losses["loss_mask_1"].mul_(float("nan")))


def ask_to_stop(argument):
    """A signal, behind the forward pass of the nth batch."""
    name, call = argument.split()
    _after_forward(call, lambda losses: os.kill(os.getpid(), signal.Signals[name]))


def ask_group_to_stop(argument):
    """The same to the data loaders too."""
    os.setpgid(0, 0)
    name, call = argument.split()
    _after_forward(call, lambda losses: os.killpg(os.getpgid(0), signal.Signals[name]))


def ask_to_stop_on_a_full_disk(argument):
    """No file of a checkpoint's size can be written."""
    limit_files(1_000_000)
    ask_to_stop(argument)


def _after_forward(call, act):
    from vitadapter_d2.modeling.mask2former import Mask2Former

    forward, left = Mask2Former.forward, int(call)

    def acting(self, batch):
        nonlocal left
        losses = forward(self, batch)
        left -= 1
        if left == 0:
            act(losses)
        return losses

    Mask2Former.forward = acting


def lines(output):
    """Of metrics.json, as they are."""
    path = Path(output, "metrics.json")
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # is being written
            break
    return found


def iterations(output):
    return [line["iteration"] for line in lines(output)]


def metrics(output):
    """What two runs must agree on, to the last bit."""
    return [
        {
            name: str(value)  # NaN, of a class that no image has, is to equal NaN
            for name, value in line.items()
            if name not in _MEASURED and "MiB" not in name
        }
        for line in lines(output)
    ]


def checkpoint(output, name="model_final"):
    return torch.load(Path(output, f"{name}.pth"), weights_only=True)
