"""Starting a run's processes, and ending them with one sentence when something is wrong.

One process, several on this machine, several machines, or those that ``torchrun`` and its like
have started: these are known by the variables of their environment.
"""

import logging
import os
import re
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import distributed
from torch.distributed import Store, TCPStore
from torch.multiprocessing import (
    ProcessExitedException,
    get_context,
    get_start_method,
    set_start_method,
    spawn,
)

from vitadapter_d2.engine.errors import ConfigError, sentences_logged, told
from vitadapter_d2.engine.launching.meeting import agreed_store, join_group, meeting_point, reason
from vitadapter_d2.engine.launching.places import (
    Place,
    check_flags,
    given_place,
    is_spokesman,
    restarts,
)
from vitadapter_d2.engine.launching.preflight import check_run, explain_missing_file
from vitadapter_d2.engine.training.distributed import leave_process_group
from vitadapter_d2.engine.training.saving import NOTE
from vitadapter_d2.engine.training.stopping import StoppedError, asked, listening
from vitadapter_d2.files import held

Main = Callable[[Namespace], None]
Read = Callable[[Namespace], DictConfig]

_TOLD = "vitadapter_d2/told"  # how often an error has been told, in the store
_TIMEOUT_MINUTES = 30  # Detectron2's
# What gloo and NCCL say when the other end is gone.
_LOST = re.compile(r"gloo/|Connection (closed|reset|refused)|[Tt]imed out")
_STOPPED = 128  # of an exit status: above it is the number of a signal
_PATIENCE_S = 0.8  # twice that have the others to end when one has failed, less than the next
_GRACE_S = 3  # in which the process that started this one sees that another has died, and says so


@dataclass(frozen=True)
class _Job:
    """What every process is given."""

    main: Main
    args: Namespace
    read: Read
    device: str
    timeout: timedelta


def launch(main: Main, args: Namespace, read: Read) -> int:
    """Checks a run, starts its processes and waits for them.

    An error that the user can mend is printed once, as one sentence, whatever the number of
    processes, and Ctrl-C too; every other keeps its traceback. SIGTERM and SIGUSR1 let a training
    save after the iteration that it is in, and end; of what another program has started with others
    SIGUSR1 alone.

    Args:
        main: runs in every process, with Detectron2's process groups made; a function of a module.
        args: Detectron2's flags. In a process that ``torchrun`` has started again ``resume`` is
            set: what it did before is in the newest checkpoint.
        read: the config that ``args`` name, overridden; asked before there are processes.

    Returns:
        The exit status.
    """
    try:
        return _launch(main, args, read)
    except KeyboardInterrupt as interruption:
        if is_spokesman():
            print(str(interruption) or "interrupted", file=sys.stderr)
        return _STOPPED + signal.SIGINT


def _launch(main: Main, args: Namespace, read: Read) -> int:
    try:
        place = given_place()
        args.resume = args.resume or restarts() > 0
        if place is None:
            check_flags(args)
        local_size = place.local_size if place else args.num_gpus
        world_size = place.world_size if place else args.num_gpus * args.num_machines
        if place and args.num_gpus not in (1, local_size):
            raise ConfigError(
                f"--num-gpus {args.num_gpus}, but {local_size} processes have been started on this "
                "machine: leave the flag out"
            )
        cfg = read(args)
        remarks = check_run(cfg, args, local_size, world_size)
    except Exception as error:
        return _end(error, told(error), aloud=is_spokesman())
    if is_spokesman():
        for remark in remarks:
            print(remark, file=sys.stderr)
    minutes = float(cfg.train.get("ddp_timeout_minutes", _TIMEOUT_MINUTES))
    job = _Job(main, args, read, torch.device(cfg.train.device).type, timedelta(minutes=minutes))
    is_first = place.rank == 0 if place else args.machine_rank == 0
    folder = Path(cfg.train.output_dir)
    try:
        with held(folder / ".running") if is_first and not args.eval_only else nullcontext():
            return _start(job, place, world_size)
    except BlockingIOError as error:
        sentence = f"a run is writing to train.output_dir={folder} ({error.strerror}): take another"
        return _end(error, sentence)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(cfg, args)) from None


def _start(job: _Job, place: Place | None, world_size: int) -> int:
    if place and place.world_size > 1:
        return _join_and_run(job, place, agreed_store)
    if world_size > 1:
        return _spawn(job)
    return _run(job, None)


def _how_to_go_on(cfg: DictConfig, args: Namespace) -> str:
    if args.eval_only:
        return "interrupted"
    if Path(cfg.train.output_dir, NOTE).is_file():
        return "interrupted; --resume continues from the newest checkpoint"
    period = cfg.train.get("checkpointer", {}).get("period", "some")
    return (
        f"interrupted; nothing was saved yet: train.checkpointer.period is {period} iterations "
        "(SIGTERM saves before it ends)"
    )


def _spawn(job: _Job) -> int:
    """Starts this machine's processes, keeps the store that they meet in, and waits."""
    args = job.args
    try:
        store = meeting_point(args, job.timeout)
    except ConfigError as error:
        return _end(error, str(error))
    address = (urlparse(args.dist_url).hostname, store.port)
    # That the others are stopped is part of the sentence.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    stopped = get_context("spawn").Value("i", 0)
    arguments = (job, address, get_start_method(), stopped)
    context = spawn(_spawned, arguments, nprocs=args.num_gpus, join=False)
    ask = partial(_ask_to_stop, context.processes)
    try:
        with listening(*_noted(job), then=ask):
            while not context.join(grace_period=_PATIENCE_S):
                pass
            number = asked()
    except ProcessExitedException as error:
        if error.signal_name:
            print(
                f"process {error.error_index} of {args.num_gpus} was ended by {error.signal_name} "
                f"({_likely(error.signal_name)}); the others have been stopped, --resume continues "
                "from the newest checkpoint",
                file=sys.stderr,
            )
        return 1  # without a signal, it has told why
    if stopped.value and number:  # its own, whatever it has passed on
        return _STOPPED + number
    return stopped.value


def _ask_to_stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGUSR1)


def _likely(signal_name: str) -> str:
    return {
        "SIGKILL": "often the system, out of memory",
        "SIGABRT": "an assertion in compiled code, or NCCL waited too long",
        "SIGTERM": "someone, or the scheduler",
        "SIGUSR1": "the scheduler, before the training had begun",
    }.get(signal_name, "a fault in compiled code")


def _spawned(
    local_rank: int, job: _Job, address: tuple[str, int], start_method: str, stopped: Any
) -> None:
    # torch's choice, SIGINT, is ignored in what a script has started in the background.
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)  # type: ignore[attr-defined]
    # Else the data loading processes are spawned too, and each imports everything again.
    set_start_method(start_method, force=True)
    args = job.args
    place = Place(
        rank=args.machine_rank * args.num_gpus + local_rank,
        world_size=args.num_machines * args.num_gpus,
        local_rank=local_rank,
        local_size=args.num_gpus,
    )
    status = _join_and_run(job, place, partial(TCPStore, *address, None, False))
    if status > _STOPPED:  # an exit with that would end the others, who may be saving
        stopped.value = status
    elif status:
        sys.exit(status)


def _join_and_run(job: _Job, place: Place, connect: Callable[[timedelta], Store]) -> int:
    try:
        store = connect(job.timeout)
        join_group(job.device, place, store, job.timeout)
    except RuntimeError as error:
        sentence = f"process {place.rank} does not meet the others: {reason(error)}"
        return _end(error, sentence if _is_loss(error) else None)
    return _run(job, store)


def _noted(job: _Job) -> list[signal.Signals]:
    """Signals that let the run save first; an evaluation has nothing to save."""
    if job.args.eval_only:
        return []
    place = given_place()
    # torchrun ends all processes by SIGTERM when it has lost one, for which none must wait.
    is_alone = place is None or place.world_size == 1
    return [signal.SIGUSR1, *([signal.SIGTERM] if is_alone else [])]


def _run(job: _Job, store: Store | None) -> int:
    try:
        with listening(*_noted(job)), sentences_logged(_short):
            job.main(job.args)
    except StoppedError as stopped:
        if comm.is_main_process():
            print(stopped, file=sys.stderr)
        leave_process_group()
        # torchrun would start again what has not ended well.
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else _STOPPED + stopped.signal
    except Exception as error:
        return _end(error, _sentence(error, job), _is_first(store))
    return 0


def _end(error: Exception, sentence: str | None, aloud: bool = True) -> int:
    """Prints a sentence instead of the traceback; without one the error goes on."""
    if sentence is None:
        raise error
    if aloud:
        print(sentence, file=sys.stderr, flush=True)
    return 1


def _is_first(store: Store | None) -> bool:
    """Whether no other process has ended with an error."""
    try:
        return store is None or store.add(_TOLD, 1) == 1
    except distributed.DistError:  # the store is lost too
        return True


def _sentence(error: Exception, job: _Job) -> str | None:
    if distributed.is_initialized() and _is_loss(error):
        if given_place() is None:
            time.sleep(_GRACE_S)
        return (
            f"process {distributed.get_rank()} has lost another one, which died or does not answer "
            f"({reason(error)}); --resume continues from the newest checkpoint"
        )
    if isinstance(error, FileNotFoundError):
        return explain_missing_file(job.read(job.args), error) or told(error)
    return told(error)


def _short(error: BaseException) -> str | None:
    return reason(error) if _is_loss(error) else told(error)


def _is_loss(error: BaseException) -> bool:
    """Whether another process, or the way to it, has failed rather than this one."""
    is_plain = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    return is_plain or isinstance(error, distributed.DistError)
