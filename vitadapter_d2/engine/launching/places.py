"""Which of a run's processes this one is, and which there are to be."""

import os
import re
from argparse import Namespace
from dataclasses import dataclass

from detectron2.engine import default_argument_parser

from vitadapter_d2.engine.errors import ConfigError

_MARKS = ("LOCAL_RANK", "WORLD_SIZE")  # of a process that another program started
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Which of how many processes one is.

    Attributes:
        rank: among all, from 0.
        world_size: processes on all machines.
        local_rank: among those of its machine, from 0; the number of its GPU.
        local_size: processes on each machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def given_place() -> Place | None:
    """The place that the environment gives this process; None: it has to start others itself.

    Raises:
        ConfigError: the environment gives only part of it.
    """
    if not all(os.environ.get(name) for name in _MARKS):
        return None
    missing = [name for name in _PLACE if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(_MARKS)} are set, so another program has started this process, but "
            f"{', '.join(missing)} not: torchrun sets them all"
        )
    rank, world_size, local_rank, local_size = (int(os.environ[name]) for name in _PLACE[:4])
    if world_size % local_size:
        raise ConfigError(
            f"{world_size} processes, {local_size} on this machine: every machine needs as many"
        )
    return Place(rank, world_size, local_rank, local_size)


def restarts() -> int:
    """How often ``torchrun`` has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def check_flags(args: Namespace) -> None:
    """Asks whether Detectron2's flags describe a set of processes.

    Raises:
        ConfigError: they do not.
    """
    if args.num_gpus < 1 or args.num_machines < 1:
        raise ConfigError(
            f"--num-gpus and --num-machines must be at least 1, got {args.num_gpus} and "
            f"{args.num_machines}"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank must be 0 to {args.num_machines - 1}, one less than --num-machines, "
            f"got {args.machine_rank}"
        )
    is_tcp = re.fullmatch(r"tcp://[^/]+:\d+", args.dist_url)
    if not is_tcp and (args.dist_url != "auto" or args.num_machines > 1):
        raise ConfigError(f"--dist-url must be tcp://HOST:PORT, got {args.dist_url}")
    default = default_argument_parser().get_default("dist_url")
    if args.num_machines > 1 and args.dist_url == default:
        raise ConfigError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, where machine 0 "
            "is reached from the others"
        )


def is_spokesman() -> bool:
    """One process of a machine, before they can agree on one."""
    return os.environ.get("LOCAL_RANK", "0") == "0" or not os.environ.get("WORLD_SIZE")
