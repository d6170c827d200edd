"""FSDP2 against DDP, on two real processes over gloo."""

import shutil
from functools import partial

import pytest
import torch
from resumed_runs import Run, checkpoint, iterations, lines
from sharded_models import MODELS, build, compare_all, start_two, try_out

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.data.datasets import ShapesSpec, generate

SGD = partial(torch.optim.SGD, lr=0.1)
FSDP = "train.fsdp.enabled=True"
CASES = {name: ((name,), {}) for name in MODELS} | {
    # Their sums have another order, and Adam makes full steps of gradients that are all but zero.
    "accumulated, clipped": (
        ("vit",),
        {"accumulate": 2, "clip_grad_norm": 0.1, "optimizer": partial(SGD, lr=10.0)},
    ),
    "float16": (("vit",), {"amp_dtype": "float16"}),
}
LOW_PRECISION = {
    "alone": (("recomputed", "bfloat16"), {"optimizer": SGD}),
    "autocast": (("beit", "bfloat16"), {"optimizer": SGD, "amp_dtype": "bfloat16"}),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return start_two(tmp_path_factory.mktemp("compared"), compare_all, CASES | LOW_PRECISION)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tried")
    return folder, start_two(folder, try_out)


@pytest.mark.parametrize("case", CASES)
def test_a_sharded_model_learns_what_ddp_learns(found, case):
    first = found[0][case]
    losses, expected = first["losses"][1], first["losses"][0]
    assert losses[0] != losses[-1]
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first["weights"][1], first["weights"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_half_and_evaluates_with_all(found, case):
    whole = found[0][case]["sizes"][0]
    parts = [one[case]["sizes"][1] for one in found]
    assert sum(parts) == whole
    assert max(parts) < 0.6 * whole
    for one in found:
        expected, outputs = one[case]["outputs"]
        torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", LOW_PRECISION)
def test_blocks_in_low_precision_stay_near(found, case):
    first = found[0][case]
    losses, expected = first["losses"][1], first["losses"][0]
    assert losses[0] != losses[-1] and losses != expected
    torch.testing.assert_close(losses, expected, atol=0, rtol=1e-3)
    expected, weights = first["weights"]
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}
    torch.testing.assert_close(weights, expected, atol=1e-2, rtol=0)


def test_an_infinite_gradient_in_one_process_is_everyones(tried):
    for one in tried[1]:
        assert one["infinite"]["kept"]
        assert one["infinite"]["scale"] == 2.0
        assert f"first in {one['infinite']['name']}" in one["infinite"]["sentence"]


def test_a_file_of_the_trained_part_fits_a_plain_model(tried):
    model, expected = build("half frozen"), build("half frozen").state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tried[0] / "part.pth"))
    assert not checkpointer.untouched
    torch.testing.assert_close(model.state_dict(), expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("scalar", "cannot spread this model, scale is a single number"),
        ("lora", "attn.qkv.weight is not what its layer computes with"),
        ("dtype", "block_dtype must be bfloat16 or None, got 'float16'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tried, case, sentence):
    for one in tried[1]:
        assert sentence in one["refused"][case]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run by DDP, one by FSDP, and from the middle of each, one that goes on the other way."""
    folder = tmp_path_factory.mktemp("sharded")
    # Three images: one process evaluates more than the other.
    generate(folder / "shapes", ShapesSpec(train=8, val=3, size=64, seed=3), workers=0)
    options = ("train.max_iter=4", "train.checkpointer.period=2", "train.clip_grad_norm=1")
    options += ("train.ema.enabled=True", "train.ema.warmup_iters=2", "train.best_metric=auto")

    def run(name, *more, middle=None, processes=2):
        output = folder / name / "output"
        if middle is not None:
            output.mkdir(parents=True)
            shutil.copy(middle / "model_0000001.pth", output)
            (output / "last_checkpoint").write_text("model_0000001.pth")
        ended = Run(output, folder / "shapes", *options, *more, processes=processes).end()
        assert not any(ended), (folder / name / "config.log").read_text()[-3000:]
        return output

    ddp, fsdp = run("ddp"), run("fsdp", FSDP)
    return {
        "ddp": ddp,
        "fsdp": fsdp,
        "ddp then fsdp": run("other", FSDP, middle=ddp),
        "fsdp then one process": run("one", middle=fsdp, processes=1),
    }


def test_the_checkpoint_of_a_sharded_run_is_a_plain_one(runs):
    """The same entries, and two iterations' worth of values: weights, averages and optimizer."""
    expected, found = (checkpoint(runs[name], "model_0000001") for name in ("ddp", "fsdp"))
    assert list(found) == list(expected)
    for part in ("model", "ema"):
        assert list(found[part]) == list(expected[part])
        torch.testing.assert_close(found[part], expected[part], atol=1e-5, rtol=1e-5)
    found, expected = found["trainer"]["optimizer"], expected["trainer"]["optimizer"]
    assert found["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(found["state"], expected["state"], atol=1e-5, rtol=1e-3)


def test_the_best_of_a_sharded_run_is_kept_whole(runs):
    expected, found = (checkpoint(runs[name], "model_best") for name in ("ddp", "fsdp"))
    assert sorted(found) == sorted(expected) == ["best", "ema", "iteration", "model"]
    for part in ("model", "ema"):
        torch.testing.assert_close(found[part], expected[part], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["fsdp", "ddp then fsdp"])
def test_a_sharded_run_ends_as_a_plain_one(runs, name):
    expected, found = checkpoint(runs["ddp"]), checkpoint(runs[name])
    for part in ("model", "ema"):
        torch.testing.assert_close(found[part], expected[part], atol=1e-4, rtol=1e-4)
    expected, found = lines(runs["ddp"])[-1], lines(runs[name])[-1]
    assert found["sem_seg/mIoU"] == pytest.approx(expected["sem_seg/mIoU"], abs=0.1)


def test_one_process_goes_on_from_a_sharded_run(runs):
    output = runs["fsdp then one process"]
    assert iterations(output)[:3] == [1, 2, 3]  # evaluation, and two steps
    state = checkpoint(output)["trainer"]["optimizer"]["state"]
    assert {int(one["step"]) for one in state.values()} == {4}
