import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import _benchmark_cases as cases  # noqa: E402
import benchmark_op  # noqa: E402

CALL = "T injector 512"


def test_workloads_have_the_sizes_of_the_published_models():
    found = cases.workloads()
    assert set(cases.DEFAULT) <= set(found)
    injector, extractor = found["B injector 512"], found["B extractor 512"]
    assert (injector.num_samples, extractor.num_samples) == (147_456, 258_048)
    assert found["L extractor 800x1216"].num_samples == 1_276_800
    assert found["Mask2Former 800x1216"].num_samples == 1_915_200


@pytest.mark.parametrize("fused", [False, True])
def test_all_candidates_compute_the_same(fused):
    arguments = cases.make_arguments(cases.workloads()[CALL], torch.float32, "cpu", spread=4.0)
    ours, reference = cases.ours(arguments, fused), cases.grid_sample(arguments, fused)
    for one, two in zip(
        torch.autograd.grad(ours.call(*ours.leaves), ours.leaves, ours.grad_output),
        torch.autograd.grad(
            reference.call(*reference.leaves), reference.leaves, reference.grad_output
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * two.abs().max().item())
    runnable, refused = cases.candidates(arguments, fused)
    assert [candidate.name for candidate in runnable][:2] == ["ours", "grid_sample"]
    assert len(runnable) + len(refused) == 1 + len(cases.PEERS)


def test_a_peer_that_computes_something_else_is_not_compared(monkeypatch):
    arguments = cases.make_arguments(cases.workloads()[CALL], torch.float32, "cpu", spread=4.0)

    def wrong(a, fused):
        good = cases.grid_sample(a, fused)
        return cases.Candidate("wrong", good.leaves, lambda *x: 2 * good.call(*x), good.grad_output)

    monkeypatch.setattr(cases, "PEERS", (wrong,))
    runnable, refused = cases.candidates(arguments, False)
    assert [candidate.name for candidate in runnable] == ["ours"]
    assert refused[0].startswith("wrong: its output differs by")


def test_the_command_prints_ratios_and_writes_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_op, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(benchmark_op, "copy_rate", lambda device, timer: 1e10)
    threads = torch.get_num_threads()
    try:
        arguments = ["--all", "--only", CALL, "--rounds", "1", "--dtypes", "bfloat16"]
        files = ["--csv", str(tmp_path / "t.csv"), "--plot", str(tmp_path / "t.png")]
        assert benchmark_op.main([*arguments, *files]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "torch " + torch.__version__ in printed
    assert printed.count(f"| {CALL} ") == 2  # plain and fused, against grid_sample
    assert "not compared: dcnv4" in printed
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["candidate"] for row in rows] == ["ours", "grid_sample"] * 2
    assert all(float(row["both"]) > 0 for row in rows)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_the_peers_time_over_ours():
    def result(candidate, ms):
        times = dict.fromkeys(benchmark_op.PASSES, ms)
        limits = benchmark_op.Limits(1, 1.0, 1.0, 1.0)
        return benchmark_op.Result("call", "plain", "float32", 1, candidate, times, limits)

    summary = benchmark_op.summary([result("ours", 2.0), result("grid_sample", 50.0)])
    assert "25.0x (25.0x)" in summary


@pytest.mark.parametrize(
    "arguments", [["--dtypes", "int8"], ["--only", "nothing"], ["--threads", "0"]]
)
def test_bad_arguments_are_named(arguments):
    done = subprocess.run(
        [sys.executable, TOOLS / "benchmark_op.py", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2 and arguments[0] in done.stderr
