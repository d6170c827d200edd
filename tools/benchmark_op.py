"""Time the deformable attention op against the grid_sample formulation and every installed peer.

    python tools/benchmark_op.py                       # a few minutes on one core
    python tools/benchmark_op.py --all --dtypes float32,bfloat16 --threads 1,2 --csv times.csv
    python tools/benchmark_op.py --device cuda --plot ratios.png

Candidates take turns, and a figure is the median over the rounds. "backward" is the backward alone,
on a graph that is kept; "both" is a forward that records and its backward. A ratio is the peer's
time over ours. The peers' values are float32, but for DCNv4.

The last columns are limits of our forward: the bytes of sampled rows per second, all work
included, and their share of what a sum reads from an array as large as a head's maps; the time
`embedding_bag` takes to gather and weight the same rows (float32, heads packed, indices ready); the
time to move every argument once.
"""

import argparse
import csv
import math
import os
import platform
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _benchmark_cases import DEFAULT, Candidate, Workload, candidates, make_arguments, workloads
from _benchmark_limits import cache_rate, copy_rate, gather_ms, gathered_bytes, moved_bytes

from vitadapter_d2.files import replacing
from vitadapter_d2.ops import backend, cuda_backend

PASSES = ("forward", "backward", "both")
MIN_SECONDS = 0.02  # of calls in a row that make one measurement


@dataclass(frozen=True)
class Limits:
    """What bounds a forward."""

    gathered_bytes: int
    cache_rate: float  # bytes per second
    gather_ms: float
    memory_ms: float


@dataclass(frozen=True)
class Result:
    """Median milliseconds of one candidate."""

    workload: str
    entry: str
    dtype: str
    threads: int
    candidate: str
    ms: dict[str, float]
    limits: Limits

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What it is compared within."""
        return self.workload, self.entry, self.dtype, self.threads


def timed(call: Callable[[], object], device: str, calls: int) -> float:
    """Mean milliseconds of `calls` calls in a row."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls * 1e3


def passes(candidate: Candidate) -> dict[str, Callable[[], object]]:
    """What is timed of a candidate."""
    leaves, grad = candidate.leaves, candidate.grad_output
    detached = [leaf.detach() for leaf in leaves]
    output = candidate.call(*leaves)
    return {
        "forward": lambda: candidate.call(*detached),
        "backward": lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True),
        "both": lambda: torch.autograd.grad(candidate.call(*leaves), leaves, grad),
    }


def medians(group: list[Candidate], device: str, rounds: int) -> list[dict[str, float]]:
    """Median milliseconds per candidate and pass, the candidates taking turns."""
    calls = [passes(candidate) for candidate in group]
    times: list[dict[str, list[float]]] = [defaultdict(list) for _ in group]
    for name in PASSES:
        counts = []
        for functions in calls:
            timed(functions[name], device, 1)  # warm
            first = timed(functions[name], device, 1)
            counts.append(max(1, min(50, math.ceil(MIN_SECONDS * 1e3 / first))))
        for _ in range(rounds):
            for functions, samples, count in zip(calls, times, counts, strict=True):
                samples[name].append(timed(functions[name], device, count))
    return [{name: statistics.median(found) for name, found in t.items()} for t in times]


def measure(workload: Workload, dtype: str, threads: int, args: argparse.Namespace) -> list[Result]:
    """All results of a workload at one dtype and thread count."""
    torch.set_num_threads(threads)
    arguments = make_arguments(workload, getattr(torch, dtype), args.device, args.spread)

    def timer(call: Callable[[], object]) -> float:
        return timed(call, args.device, 1)

    limits = Limits(
        gathered_bytes(arguments),
        cache_rate(arguments, timer),
        gather_ms(arguments, timer),
        moved_bytes(arguments) / args.copy_rate * 1e3,
    )
    found = []
    for entry in args.entries:
        group, refused = candidates(arguments, entry == "fused")
        args.refused.update(refused)
        for candidate, ms in zip(group, medians(group, args.device, args.rounds), strict=True):
            place = workload.name, entry, dtype, threads
            found.append(Result(*place, candidate.name, ms, limits))
    return found


def ratios(results: list[Result]) -> dict[tuple[str, ...], dict[str, list[float]]]:
    """Per (entry, dtype, threads, peer) and pass, the ratio of each workload."""
    own = {result.place: result.ms for result in results if result.candidate == "ours"}
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        if r.candidate != "ours":
            for name in PASSES:
                key = r.entry, r.dtype, str(r.threads), r.candidate
                found[key][name].append(r.ms[name] / own[r.place][name])
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned for the terminal."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def per_call(results: list[Result]) -> str:
    """One row per call: our times, each peer's as a ratio, the distance from the limit."""
    by_place: dict[tuple[str, str, str, int], list[Result]] = defaultdict(list)
    for result in results:
        by_place[result.place].append(result)
    rows = []
    for (workload, entry, dtype, threads), (own, *peers) in by_place.items():
        for peer in peers:
            cells = [f"{own.ms[p]:.2f} ({peer.ms[p] / own.ms[p]:.1f}x)" for p in PASSES]
            rate = own.limits.gathered_bytes / own.ms["forward"] * 1e3
            share = f"{rate / 1e9:.0f} ({rate / own.limits.cache_rate:.0%})"
            limits = [share, f"{own.limits.gather_ms:.2f}", f"{own.limits.memory_ms:.2f}"]
            rows.append([workload, entry, dtype, str(threads), peer.candidate, *cells, *limits])
    names = [f"{name} ms" for name in PASSES]
    header = ["call", "entry", "dtype", "threads", "against", *names]
    header += ["GB/s (of cache)", "gather ms", "memory ms"]
    return table(header, rows)


def summary(results: list[Result]) -> str:
    """Geometric mean and minimum over the workloads."""
    rows = []
    for key, found in ratios(results).items():
        cells = [
            f"{statistics.geometric_mean(found[name]):.1f}x ({min(found[name]):.1f}x)"
            for name in PASSES
        ]
        rows.append([*key, *cells])
    return table(["entry", "dtype", "threads", "against", *PASSES], rows)


def write_csv(path: Path, results: list[Result]) -> None:
    """All medians."""
    with replacing(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ["call", "entry", "dtype", "threads", "candidate", *PASSES, "gather", "memory"]
        writer.writerow(columns)
        for r in results:
            times = [*(r.ms[name] for name in PASSES), r.limits.gather_ms, r.limits.memory_ms]
            writer.writerow([*r.place, r.candidate, *(f"{t:.4f}" for t in times)])


def write_plot(path: Path, results: list[Result]) -> None:
    """Bars of the ratios to grid_sample."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own = {result.place: result.ms for result in results if result.candidate == "ours"}
    peers = [result for result in results if result.candidate == "grid_sample"]
    figure, axes = pyplot.subplots(len(PASSES), 1, figsize=(10, 9), sharex=True)
    labels = [f"{r.workload}\n{r.entry}, {r.dtype}, {r.threads}" for r in peers]
    for axis, name in zip(axes, PASSES, strict=True):
        axis.bar(range(len(peers)), [r.ms[name] / own[r.place][name] for r in peers])
        axis.set_ylabel(f"{name}: grid_sample / ours")
        axis.axhline(1, color="black", linewidth=0.8)
    axes[-1].set_xticks(range(len(peers)), labels, rotation=90, fontsize=6)
    figure.tight_layout()
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150)
    pyplot.close(figure)


def machine(device: str) -> str:
    """The processor, its cores, and the versions that matter."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {cuda_backend()}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*: (.+)", info.read_text())):
        model = found[1]
    return f"{model}, {os.cpu_count()} cores, torch {torch.__version__}, {backend()}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--all", action="store_true", help="every model at every size")
    parser.add_argument("--only", default="", help="calls whose name has this in it")
    parser.add_argument("--dtypes", type=lambda s: s.split(","), default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=lambda s: [int(n) for n in s.split(",")], default=[1])
    parser.add_argument("--entries", type=lambda s: s.split(","), default=["plain", "fused"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spread", type=float, default=4.0, help="pixels that offsets vary by")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args(argv)
    for name, legal in (
        ("dtypes", ["float64", "float32", "bfloat16", "float16"]),
        ("entries", ["plain", "fused"]),
    ):
        for given in getattr(args, name):
            if given not in legal:
                parser.error(f"--{name}: expected some of {', '.join(legal)}, got {given!r}")
    if min(args.threads) < 1 or args.rounds < 1:
        parser.error("--threads and --rounds: expected 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    names = [name for name in (workloads() if args.all else DEFAULT) if args.only in name]
    if not names:
        parser.error(f"--only: no call has {args.only!r} in its name; --all adds more")
    args.workloads = [workloads()[name] for name in names]
    args.refused = set()
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = parse(argv)
    print(machine(args.device), flush=True)
    args.copy_rate = copy_rate(args.device, lambda call: timed(call, args.device, 1))
    print(f"a large copy moves {args.copy_rate / 1e9:.1f} GB/s\n", flush=True)
    results: list[Result] = []
    begin = time.monotonic()
    for threads in args.threads:
        for dtype in args.dtypes:
            for workload in args.workloads:
                elapsed = time.monotonic() - begin
                print(f"[{elapsed:4.0f} s] {workload.name}, {dtype}, threads: {threads}",
                      file=sys.stderr, flush=True)  # fmt: skip
                results += measure(workload, dtype, threads, args)
    print(per_call(results), "\n\nGeometric means over the calls (and minima):\n", sep="")
    print(summary(results), "\n")
    for line in sorted(args.refused):
        print(f"not compared: {line}")
    if args.csv:
        write_csv(args.csv, results)
    if args.plot:
        write_plot(args.plot, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
