"""Mapping a function over many files with several processes and a progress bar."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from tqdm import tqdm


def parallel_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    workers: int | None = None,
    title: str | None = None,
    unit: str = "image",
) -> Iterator[Any]:
    """Yield the results in the order of the items.

    Args:
        function: must be picklable.
        items: what it is called with.
        workers: number of processes; 0 works in this one, None takes one per core, at most 8.
        title: label of the progress bar; None shows none.
        unit: what an item is, for the progress bar.
    """
    bar = tqdm(total=len(items), desc=title, unit=unit, disable=title is None)
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    with bar:
        for result in _results(function, items, workers):
            bar.update()
            yield result


def _results(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    if workers <= 1:
        yield from map(function, items)
        return
    # A forked worker does not import torch and Detectron2 anew, which takes longer than the work.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    # Ctrl-C goes to all processes; this one tells it, the workers end with it.
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=ignore) as pool:
        yield from pool.map(function, items, chunksize=8)
