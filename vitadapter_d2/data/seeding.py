"""Randomness as a function of integers: nothing has to be stored to repeat it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MODEL, _SAMPLE = 0, 1  # one key gives a model other numbers than a sample


def seed_everything(*key: int) -> None:
    """Seeds ``random``, ``numpy.random`` and torch, on all devices.

    Args:
        *key: integers of 0 or more; other numbers, or another count of them, give other streams.
    """
    torch.manual_seed(_seed_on_cpu(_MODEL, *key))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds the three generators of the CPU within the block; behind it they are as before.

    Args:
        *key: see :func:`seed_everything`.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Not torch.manual_seed: without a CUDA context that formats a stack trace at every call.
    torch.default_generator.manual_seed(_seed_on_cpu(_SAMPLE, *key))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_on_cpu(*key: int) -> int:
    """Seeds all but torch; returns a seed for that."""
    # The length keeps (a,) and (a, 0) apart, which SeedSequence takes for the same.
    words = np.random.SeedSequence([len(key), *key]).generate_state(10)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:8])
    return int.from_bytes(words[8:].tobytes(), "little", signed=True)
