"""Schedules of the configurations against the rates that mmcv's hooks set."""

import math
import runpy

import pytest
from detectron2.config import instantiate
from fvcore.common.param_scheduler import LinearParamScheduler

from vitadapter_d2.engine.config.loading import configs_root
from vitadapter_d2.solver import ByEpoch, LinearWarmup

SCHEDULES = runpy.run_path(str(configs_root() / "common" / "schedules.py"))
ITERATIONS = 200
WARMUP = 20


def annealed(progress, end_value):
    return end_value + (1 - end_value) * (1 + math.cos(math.pi * progress)) / 2


# Each with its rate without warm-up, and the first factor of that.
CASES = {
    "poly": (SCHEDULES["poly"](ITERATIONS, 0.9, WARMUP), lambda i: (1 - i / 200) ** 0.9, 1e-6),
    "steps": (  # one of them within the warm-up
        SCHEDULES["steps"](20, [1, 8], ITERATIONS, WARMUP),
        lambda i: 0.1 ** ((i >= 10) + (i >= 80)),
        0.001,
    ),
    "cosine": (SCHEDULES["cosine"](ITERATIONS, WARMUP), lambda i: annealed(i / 200, 0.02), 0.01),
    "cosine by epoch": (
        SCHEDULES["cosine"](ITERATIONS, WARMUP, 0.01, warmup_factor=0.001, epochs=25),
        lambda i: annealed(i // 8 / 25, 0.01),
        0.001,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_warm_up_scales_the_rate_that_is_due(name):
    schedule, due, factor = CASES[name]
    official = [due(i) * (1 - (1 - min(i / WARMUP, 1)) * (1 - factor)) for i in range(ITERATIONS)]
    schedule = instantiate(schedule)
    assert [schedule(i / ITERATIONS) for i in range(ITERATIONS)] == pytest.approx(official)


def test_without_warm_up_or_with_a_factor_of_one_the_schedule_stays():
    line = LinearParamScheduler(1.0, 0.0)
    for factor, length in ((1e-6, 0.0), (1.0, 0.1)):
        warm = LinearWarmup(line, factor, length)
        assert [warm(i / 10) for i in range(11)] == [line(i / 10) for i in range(11)]


def test_a_warm_up_that_does_not_end_is_refused():
    assert SCHEDULES["cosine"](101, warmup_iters=100).warmup_length == 100 / 101
    for warmup_iters in (100, -1):
        with pytest.raises(ValueError, match=r"must be in \[0, max_iter=100\), got "):
            SCHEDULES["cosine"](100, warmup_iters=warmup_iters)


@pytest.mark.parametrize("epochs", [1, 7, 25, 50])
def test_by_epoch_the_rate_changes_where_an_epoch_begins(epochs):
    per_epoch, schedule = 9, ByEpoch(LinearParamScheduler(1.0, 0.0), epochs)
    rates = [schedule(i / (epochs * per_epoch)) for i in range(epochs * per_epoch)]
    assert rates == pytest.approx([1 - i // per_epoch / epochs for i in range(len(rates))])


def test_epochs_are_at_least_one():
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        ByEpoch(LinearParamScheduler(1.0, 0.0), 0)


@pytest.mark.parametrize("options", [{"warmup_factor": -0.1}, {"warmup_length": 1.5}])
def test_a_warm_up_that_never_ends_is_refused(options):
    values = {"warmup_factor": 0.1, "warmup_length": 0.1, **options}
    with pytest.raises(ValueError, match=r"warmup_\w+ must be in \[0, 1\], got"):
        LinearWarmup(LinearParamScheduler(1.0, 0.0), **values)
