"""What a run does about faults, and what it leaves for the next one."""

import json

import pytest
from resumed_runs import Run, checkpoint, iterations, lines, metrics

from vitadapter_d2.data.datasets import ShapesSpec, generate

EVALUATED = ("train.eval_period=3",)  # as often as a checkpoint is saved


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "shapes"
    generate(folder, ShapesSpec(train=8, val=1, size=64, seed=3), workers=0)
    return folder


def test_an_evaluation_that_was_killed_is_made_up_for(data, tmp_path):
    whole, output = tmp_path / "whole" / "output", tmp_path / "killed" / "output"
    assert Run(whole, data, *EVALUATED, "train.max_iter=5").end() == [0]
    assert Run(output, data, *EVALUATED, "train.max_iter=5", patch="die_in_test:").end() == [-9]
    assert iterations(output) == [0, 1]  # iteration 2 is in the checkpoint
    assert Run(output, data, *EVALUATED, "train.max_iter=5").end() == [0]
    assert "sem_seg/mIoU" in lines(output)[2]
    # What only the hooks before the checkpoint know of that iteration is lost.
    expected = metrics(whole)
    del expected[2]["lr"]
    assert metrics(output) == expected


def test_a_full_disk_costs_checkpoints_and_not_the_run(data, tmp_path):
    output = tmp_path / "output"
    run = Run(output, data, "train.max_iter=4", patch="limit_files:1000000")
    assert run.end() == [1]  # the last one must be written
    assert iterations(output) == [0, 1, 2, 3]
    assert "NO CHECKPOINT of iteration 2: [Errno 27] File too large" in run.told()
    assert not list(output.glob("*.pth")) and not list(output.glob(".*"))
    assert Run(output, data, "train.max_iter=4").end() == [0]
    assert iterations(output) == [0, 1, 2, 3, 4]


def test_a_resumed_run_keeps_the_seed_that_it_drew(data, tmp_path):
    output = tmp_path / "output"
    assert Run(output, data, "train.seed=-1", "train.max_iter=3").end() == [0]
    drawn = checkpoint(output)["trainer"]["seed"]
    run = Run(output, data, "train.seed=-1", "train.max_iter=4")
    assert run.end() == [0]
    assert run.told().count(f"The run's seed is {drawn}.") == 2
    other = tmp_path / "other" / "output"
    # All but the last iteration has another schedule.
    assert Run(other, data, f"train.seed={drawn}", "train.max_iter=3").end() == [0]
    assert trained(output)[:3] == trained(other)
    evaluated = {name: value for name, value in metrics(other)[3].items() if "/" in name}
    assert evaluated.items() <= metrics(output)[2].items()  # where the first run ended
    assert "train.max_iter is 4 now, until here the run had 3." in run.told()


def trained(output):
    return [
        {name: value for name, value in line.items() if "/" not in name}
        for line in metrics(output)
        if "total_loss" in line
    ]


def test_a_loss_that_is_no_number_ends_all_processes_and_names_the_batch(data, tmp_path):
    output = tmp_path / "output"
    run = Run(output, data, processes=2, patch="break_loss:5", patched=1)
    assert run.end() == [1, 1]
    told = run.told()
    assert "at iteration 4 loss_mask_1 is nan in process 1; images: " in told
    found = json.loads((output / "nonfinite_batch.json").read_text())
    assert (found["iteration"], found["seed"]) == (4, 1)
    assert len(found["images"]) == 2  # of that process
    assert all(image["file_name"] in told for image in found["images"])
    # The newest checkpoint is of iteration 2; from there the run gets through.
    assert (output / "last_checkpoint").read_text() == "model_0000002.pth"
    assert Run(output, data, processes=2).end() == [0, 0]
    assert iterations(output) == list(range(9))
    assert all(value.isfinite().all() for value in checkpoint(output)["model"].values())
