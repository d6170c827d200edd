"""Runs that the system asks to end."""

import os
import signal
from pathlib import Path

import pytest
from resumed_runs import Run, checkpoint, lines, metrics

from vitadapter_d2.data.datasets import ShapesSpec, generate
from vitadapter_d2.engine.training.stopping import asked, listening


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "shapes"
    generate(folder, ShapesSpec(train=8, val=1, size=64, seed=3), workers=0)
    return folder


@pytest.mark.parametrize(("name", "processes"), [("SIGTERM", 1), ("SIGUSR1", 2)])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_there(data, tmp_path, name, processes):
    options = {"processes": processes}
    whole, output = tmp_path / "whole" / "output", tmp_path / "stopped" / "output"
    assert Run(whole, data, "train.max_iter=6", **options).end() == [0] * processes
    stopped = {"patch": f"ask_to_stop:{name} 5", "patched": processes - 1}
    run = Run(output, data, "train.max_iter=6", **options, **stopped)
    assert run.end() == [128 + signal.Signals[name]] * processes
    assert run.told().count(f"{name}: stopped after 5 iterations; --resume continues there") >= 1
    assert "Traceback" not in run.told()
    assert (output / "last_checkpoint").read_text() == "model_0000004.pth"
    text = (output / "summary.md").read_text()
    assert (
        f"- state: {name}: stopped after 5 iterations" in text and "\n- iterations: 5 of 6" in text
    )
    assert all("total_loss" not in line for line in lines(output)[4:])
    assert Run(output, data, "train.max_iter=6", **options).end() == [0] * processes
    expected = metrics(whole)
    del expected[4]["lr"]  # known to a hook before the one that saves
    assert metrics(output) == expected


def test_a_signal_to_the_whole_group_ends_data_loaders_and_costs_nothing(data, tmp_path):
    """As ``kill -- -group`` and systemd send it."""
    output = tmp_path / "stopped" / "output"
    workers = ("train.max_iter=6", "dataloader.train.num_workers=2")
    run = Run(output, data, *workers, patch="ask_group_to_stop:SIGTERM 3")
    assert run.end() == [128 + signal.SIGTERM]
    assert "SIGTERM: stopped after" in run.told() and "Traceback" not in run.told()
    done = checkpoint(output, Path(output, "last_checkpoint").read_text()[:-4])["iteration"] + 1
    assert done in (2, 3)
    assert Run(output, data, "train.max_iter=6").end() == [0]
    assert [line["iteration"] for line in lines(output) if "total_loss" in line] == [*range(6)]


def test_what_cannot_be_saved_is_no_clean_end(data, tmp_path):
    output = tmp_path / "stopped" / "output"
    run = Run(output, data, "train.max_iter=6", patch="ask_to_stop_on_a_full_disk:SIGTERM 3")
    assert run.end() == [1]
    assert "File too large: " in run.told() and "stopped after" not in run.told()


def test_signals_are_noted_within_the_block_alone():
    before, called = signal.getsignal(signal.SIGUSR1), []
    with listening(signal.SIGUSR1, then=lambda: called.append(asked())):
        assert asked() is None
        os.kill(os.getpid(), signal.SIGUSR1)
    assert called == [signal.SIGUSR1] and asked() is None
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, 0)]
)
@pytest.mark.parametrize("is_forked", [False, True])
def test_what_ends_a_process_and_what_it_has_forked(number, ends, is_forked):
    if not (pid := os.fork()):
        with listening(number):
            if is_forked and (child := os.fork()):
                os._exit(os.WTERMSIG(os.waitpid(child, 0)[1]))
            os.kill(os.getpid(), number)
            if not is_forked:
                os.kill(os.getpid(), number)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert (os.WEXITSTATUS(status) if is_forked else os.WTERMSIG(status)) == ends
