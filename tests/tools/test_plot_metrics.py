"""From metrics.json to a picture."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import plot_metrics  # noqa: E402

ROOT = Path(__file__).parents[2]


def write_run(folder, iterations=3, tail=""):
    lines = [
        {
            "iteration": n,
            "total_loss": 3.0 - n,
            "loss_ce": 2.0 - n,
            "loss_ce_0": 1,
            "lr": 0.1,
            "time": 0.5,
        }
        for n in range(iterations)
    ]
    lines.append({"iteration": 2, "sem_seg/mIoU": 40.0, "sem_seg/IoU-wall": 50.0, "bbox/APl": "x"})
    folder.mkdir()
    text = "\n".join(json.dumps(line) for line in lines) + "\n" + tail
    (folder / "metrics.json").write_text(text)
    return folder


def test_curves_are_read_and_what_is_no_line_is_passed_over(tmp_path):
    tail = '{"iteration": 0, "lr": 0.2}\n{"iteration": 1, "lr": NaN}\n[1]\n{"iteration": 9, "lr'
    curves = plot_metrics.read_metrics(write_run(tmp_path / "run", tail=tail))
    assert curves["lr"] == {0: 0.2, 1: 0.1, 2: 0.1}
    assert list(curves) == ["total_loss", "loss_ce", "loss_ce_0", "lr", "time", "sem_seg/mIoU"] + [
        "sem_seg/IoU-wall"
    ]
    assert curves == plot_metrics.read_metrics(tmp_path / "run" / "metrics.json")


def test_losses_rate_and_evaluations_are_shown_unless_others_are_asked_for(tmp_path):
    runs = {"a": plot_metrics.read_metrics(write_run(tmp_path / "a"))}
    assert plot_metrics.chosen_names(runs, []) == ["total_loss", "lr", "sem_seg/mIoU", "loss_ce"]
    assert plot_metrics.chosen_names(runs, ["time", "sem_seg/*"]) == [
        "time",
        "sem_seg/mIoU",
        "sem_seg/IoU-wall",
    ]


def test_an_unknown_metric_is_told_with_the_nearest(tmp_path):
    runs = {"a": plot_metrics.read_metrics(write_run(tmp_path / "a"))}
    with pytest.raises(ValueError, match="no metric is called 'miou'; nearest: sem_seg/mIoU"):
        plot_metrics.chosen_names(runs, ["miou"])


def test_two_runs_make_one_picture_with_a_curve_in_each_panel(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", iterations=2)]
    plot_metrics.plot(runs, [], tmp_path / "both.png")
    image = cv2.imread(str(tmp_path / "both.png"))
    assert image.shape == (300, 1600, 3)
    spread = image.max(axis=2).astype(int) - image.min(axis=2)  # of the coloured lines
    assert all(
        (panel > 60).sum() > 20 for panel in (spread[:, n : n + 400] for n in range(0, 1600, 400))
    )
    assert not list(tmp_path.glob(".*"))


def test_a_format_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ValueError, match="--output must end in one of .png"):
        plot_metrics.plot([write_run(tmp_path / "a")], [], tmp_path / "x.bmp")


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "run")
    message = plot_metrics.plot([tmp_path / "x" / "run", tmp_path / "y" / "run"], ["lr"])
    assert str(tmp_path / "y" / "run") in message
    assert (tmp_path / "x" / "run" / "metrics.png").is_file()


def test_the_command_draws_or_says_in_one_sentence_why_not(tmp_path):
    def run(*arguments):
        command = [sys.executable, "tools/plot_metrics.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run(write_run(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.png").is_file()
    missing = run(tmp_path / "nothing")
    assert missing.returncode == 1
    told = [
        line for line in missing.stderr.splitlines() if "Warning" not in line and "warn" not in line
    ]
    assert told == [
        f"no metrics.json at {tmp_path / 'nothing'}: give the output folder of a training"
    ]
