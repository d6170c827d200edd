"""Runs that are killed and resumed, against the one that is not."""

import random

import pytest
import torch
from resumed_runs import Run, checkpoint, iterations, metrics

from vitadapter_d2.data.datasets import ShapesSpec, generate

RECIPES = {
    "one process": (1, ()),
    "two processes": (2, ()),
    "accumulation, averages, float16": (
        1,
        (
            "train.accumulate=2",
            "train.ema.enabled=True",
            "train.amp.enabled=True",
            "train.amp.dtype=float16",
        ),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "shapes"
    generate(folder, ShapesSpec(train=8, val=1, size=64, seed=3), workers=0)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Output folders by recipe, each trained when it is first asked for."""
    done = {}

    def get(recipe):
        if recipe not in done:
            processes, overrides = RECIPES[recipe]
            output = tmp_path_factory.mktemp("whole") / "output"
            assert not any(Run(output, data, *overrides, processes=processes).end())
            done[recipe] = output
        return done[recipe]

    return get


def assert_equal(found, expected, path="checkpoint"):
    assert type(found) is type(expected), path
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_equal(found[key], expected[key], f"{path}.{key}")
    else:
        assert found == expected, path


def assert_same_run(output, expected):
    assert iterations(output) == list(range(9))  # the last is the final evaluation
    assert metrics(output) == metrics(expected)
    found, whole = checkpoint(output), checkpoint(expected)
    assert found.pop("run")["parts"] > whole.pop("run")["parts"] == 1
    assert_equal(found, whole)
    assert not list(output.glob(".*.partial"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(recipe, data, uninterrupted, tmp_path):
    processes, overrides = RECIPES[recipe]
    output = tmp_path / "output"
    options = dict(processes=processes)
    rng = random.Random(7)
    # Wherever it is, and in the middle of a step; of several processes in one, for which the
    # others must not wait.
    run = Run(output, data, *overrides, **options)
    assert any(run.kill_at(rng.randint(0, 3), rank=rng.randrange(processes)))
    overrides = (*overrides, "dataloader.train.num_workers=2")
    options["patched"] = rng.randrange(processes)
    assert any(Run(output, data, *overrides, patch="die_in_step:2", **options).end())
    assert not any(Run(output, data, *overrides, **options).end())
    assert_same_run(output, uninterrupted(recipe))


def test_a_run_killed_in_a_save_goes_on_from_the_one_before(data, uninterrupted, tmp_path):
    output = tmp_path / "output"
    # The first one there is, then one with one before it, then the last.
    for name in ("0000002", "0000005", "final"):
        assert Run(output, data, patch=f"die_in_save:{name}").end() == [-9]
        assert list(output.glob(f".model_{name}.pth.*.partial"))
        assert not (output / f"model_{name}.pth").exists()
    assert not any(Run(output, data).end())
    assert_same_run(output, uninterrupted("one process"))
