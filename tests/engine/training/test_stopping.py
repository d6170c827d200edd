"""Runs that the system asks to end."""

import os
import signal

import pytest
from resumed_runs import Run, lines, metrics

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
    assert f"- state: {name}: stopped after 5 iterations" in (output / "summary.md").read_text()
    assert all("total_loss" not in line for line in lines(output)[4:])
    assert Run(output, data, "train.max_iter=6", **options).end() == [0] * processes
    expected = metrics(whole)
    del expected[4]["lr"]  # known to a hook before the one that saves
    assert metrics(output) == expected


def test_signals_are_noted_within_the_block_alone():
    before, called = signal.getsignal(signal.SIGUSR1), []
    with listening(signal.SIGUSR1, then=lambda: called.append(asked())):
        assert asked() is None
        os.kill(os.getpid(), signal.SIGUSR1)
    assert called == [signal.SIGUSR1] and asked() == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_second_signal_and_a_forked_process_are_not_spared():
    for in_child in (False, True):
        if not (pid := os.fork()):
            with listening(signal.SIGUSR1):
                if in_child and (child := os.fork()):
                    os._exit(os.waitpid(child, 0)[1] & 0x7F)
                os.kill(os.getpid(), signal.SIGUSR1)
                if not in_child:
                    os.kill(os.getpid(), signal.SIGUSR1)
                os._exit(0)
        status = os.waitpid(pid, 0)[1]
        number = os.WEXITSTATUS(status) if in_child else os.WTERMSIG(status)
        assert number == signal.SIGUSR1
