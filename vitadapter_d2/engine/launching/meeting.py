"""Where the processes of a run meet, and the groups that they form."""

import os
import re
from argparse import Namespace
from datetime import timedelta
from urllib.parse import urlparse

import torch
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from vitadapter_d2 import compat
from vitadapter_d2.engine.errors import ConfigError
from vitadapter_d2.engine.launching.places import Place, restarts


def meeting_point(args: Namespace, timeout: timedelta) -> TCPStore:
    """The store of all processes, served by the first one of machine 0, which outlives the rest."""
    if args.dist_url == "auto":
        args.dist_url = "tcp://127.0.0.1:0"
    url = urlparse(args.dist_url)
    is_server = args.machine_rank == 0
    try:
        return TCPStore(url.hostname, url.port, None, is_server, timeout, wait_for_workers=False)
    except distributed.DistError as error:
        if is_server:
            raise ConfigError(
                f"port {url.port} of --dist-url {args.dist_url} cannot be opened: another run has "
                "it, or processes that a dead run has left; --dist-url auto takes a free one"
            ) from error
        raise ConfigError(
            f"machine 0 does not answer at --dist-url {args.dist_url}: {reason(error)}"
        ) from error


def agreed_store(timeout: timedelta) -> Store:
    """Where processes meet that another program has started."""
    store = next(rendezvous("env://", timeout=timeout))[0]
    # torchrun's store outlives an attempt, and holds the addresses of those who are gone.
    return PrefixStore(f"attempt {restarts()}", store)


def join_group(device: str, place: Place, store: Store, timeout: timedelta) -> None:
    """Makes the process groups that Detectron2 expects, as its own ``launch`` does."""
    if device == "cuda":
        torch.cuda.set_device(place.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_size))
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timeout,
    )
    compat.create_local_process_group(place.local_size)


def reason(error: BaseException) -> str:
    """The first sentence, without the place in the source of gloo or torch."""
    text = re.sub(r"\[/[^\]]*\]\s*", "", str(error)).strip()
    return re.split(r"\. |\n", text, maxsplit=1)[0] or type(error).__name__
