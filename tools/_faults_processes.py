"""Faults of processes and disks: what is killed, interrupted, full, damaged."""

import contextlib
import os
import random
import signal
import zipfile
from pathlib import Path

from _faults_runs import ITERATIONS, PERIOD, iterations
from _faults_scene import Scene

_NEWEST = f"model_{2 * PERIOD - 1:07d}.pth"  # but for the last
_TORCHRUN_SAYS = r"failed \(exitcode: -9\) local_rank: 1"


def killed(scene: Scene) -> None:
    """At a random step."""
    iteration = random.randrange(ITERATIONS - 1)
    scene.account.done = f"SIGKILL when iteration {iteration}, drawn at random, was on record"
    run = scene.start()
    run.wait_for(iteration)
    run.kill()
    scene.ends(run, -signal.SIGKILL, quiet=False)
    scene.resumes()


def killed_in_save(scene: Scene) -> None:
    """While the second checkpoint, or the one after it, is being written."""
    scene.account.done = (
        "the process was stopped (SIGSTOP) when there was a part of a checkpoint under its "
        "temporary name, and killed (SIGKILL)"
    )
    run = scene.start()
    run.wait_for(PERIOD - 1)
    half: list[tuple[str, int]] = []
    while run.process.poll() is None and not half:
        run.wait_until(lambda: _being_saved(scene.output))
        run.freeze()
        half = _being_saved(scene.output)
        if half:
            run.kill()
        run.thaw()
    scene.ends(run, -signal.SIGKILL, quiet=False)
    for name, size in half:
        whole = scene.whole(1).joinpath(name).stat().st_size
        scene.account.happened.append(
            f"{size / 2**20:.1f} of {whole / 2**20:.1f} MiB of {name} are on the disk under the "
            f"temporary name, and last_checkpoint names {_noted(scene)}"
        )
    scene.account.check(half, "the save was over before")
    scene.resumes()
    is_clean = not list(scene.output.glob(".*.partial"))
    scene.account.go_on.append(f"the temporary file is {'gone' if is_clean else 'still there'}")
    scene.account.check(is_clean, "a temporary file is left")


def _being_saved(output: Path) -> list[tuple[str, int]]:
    """Name and size of a checkpoint that is not whole."""
    found = []
    for file in output.glob(".model_*.partial"):
        with contextlib.suppress(FileNotFoundError):  # it is whole now
            found.append((f"{file.name.split('.')[1]}.pth", file.stat().st_size))
    return [(name, size) for name, size in found if size]


def _noted(scene: Scene) -> str:
    return scene.output.joinpath("last_checkpoint").read_text()


def full_disk(scene: Scene) -> None:
    """From the second checkpoint on no large file can be written."""
    scene.account.done = (
        "the first checkpoint written, no file of the process could grow beyond 1 MB any more "
        "(RLIMIT_FSIZE, by prlimit; it fails in the middle of the write as a full disk does)"
    )
    run = scene.start()
    run.wait_for(PERIOD - 1)
    run.limit_files(1_000_000)
    ended = scene.ends(run, 1, r"File too large: output/model_final\.pth")
    warning = ended.line("NO CHECKPOINT of iteration")
    recorded = iterations(scene.output)
    scene.account.happened.insert(0, f"`{scene.shown(warning)}`, and all iterations were trained")
    scene.account.check(warning, "no warning of the first save that failed")
    scene.account.check(recorded == list(range(ITERATIONS)), f"it trained only {recorded}")
    scene.resumes("free the disk, `--resume`")


def truncated_checkpoint(scene: Scene) -> None:
    """The last checkpoint has lost its end."""
    scene.account.done = "the last third of model_final.pth was cut off"
    scene.finished_run()
    path = scene.output / "model_final.pth"
    os.truncate(path, path.stat().st_size * 2 // 3)
    _falls_back(scene, r"model_final\.pth is damaged or incomplete")


def flipped_bytes(scene: Scene) -> None:
    """The last checkpoint has the right size and wrong content."""
    scene.account.done = "16 bytes of the largest tensor in model_final.pth were inverted"
    scene.finished_run()
    path = scene.output / "model_final.pth"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    middle = largest.header_offset + largest.file_size // 2
    content[middle : middle + 16] = bytes(255 - byte for byte in content[middle : middle + 16])
    path.write_bytes(content)
    _falls_back(scene, r"model_final\.pth is damaged \(wrong checksum")


def dangling_note(scene: Scene) -> None:
    """``last_checkpoint`` names a file that is not there."""
    scene.account.done = "last_checkpoint named model_0000099.pth, and model_final.pth was deleted"
    scene.finished_run(_NEWEST)
    (scene.output / "last_checkpoint").write_text("model_0000099.pth")
    _falls_back(scene, r"no checkpoint at .*model_0000099\.pth")


def _falls_back(scene: Scene, why: str) -> None:
    scene.account.happened.append("the run is resumed from the checkpoint before it")
    scene.resumes(said=rf"Resuming from output/{_NEWEST}: .*{why}")


def no_good_checkpoint(scene: Scene) -> None:
    """Every checkpoint is damaged."""
    scene.account.done = "all checkpoints were cut to 1000 bytes"
    scene.finished_run()
    for path in scene.output.glob("*.pth"):
        os.truncate(path, 1000)
    scene.ends(scene.start(resume=True), 1, "no checkpoint to resume from: .*damaged")
    scene.account.go_on.append("restore one of them, or start again in another folder")


def not_a_number(scene: Scene) -> None:
    """The training diverges."""
    newest = f"model_{PERIOD - 1:07d}.pth"
    scene.account.done = (
        f"the run was resumed from {newest} with a learning rate of 1e30 (`optimizer.lr`)"
    )
    scene.finished_run(newest)
    run = scene.start("optimizer.lr=1e30", resume=True)
    scene.ends(run, 1, r"at iteration \d+ .*(nan|inf).*images: datasets/.*newest checkpoint")
    kept = _noted(scene)
    scene.account.check(kept == newest, f"the last checkpoint is {kept}")
    scene.account.check((scene.output / "nonfinite_batch.json").is_file(), "no batch is described")
    scene.resumes("the learning rate as before, `--resume`")


def worker_killed(scene: Scene) -> None:
    """A data loading process."""
    scene.account.done = "SIGKILL to the data loading process, as the system does out of memory"
    run = scene.start()
    run.wait_for(PERIOD)
    for worker in run.children("train_net.py"):
        os.kill(worker, signal.SIGKILL)
    scene.ends(run, 1, "data loading process died .*num_workers.*--resume")
    scene.resumes()


def rank_killed(scene: Scene) -> None:
    """One of two processes that the tool has started."""
    scene.account.done = "`--num-gpus 2` on the CPU (gloo); SIGKILL to process 1"
    run = scene.start(processes=2)
    run.wait_for(PERIOD)
    os.kill(run.children("spawn_main")[1], signal.SIGKILL)
    scene.ends(run, 1, "process 1 of 2 was ended by SIGKILL .*--resume", quiet=False)
    scene.resumes("the same command with `--resume`", processes=2)


def rank_killed_under_torchrun(scene: Scene) -> None:
    """One of two processes, without a restart."""
    scene.account.done = "torchrun with 2 processes (gloo); SIGKILL to process 1"
    run = scene.start_by_torchrun()
    run.wait_for(PERIOD)
    os.kill(run.children("train_net.py")[1], signal.SIGKILL)
    scene.ends(run, 1, _TORCHRUN_SAYS, on="log", quiet=False)
    scene.account.happened.append("and a summary of torchrun's, with its traceback")
    scene.resumes("`--resume`, here without torchrun", processes=2)


def rank_restarted(scene: Scene) -> None:
    """One of two processes, which torchrun starts again."""
    scene.account.done = "torchrun with `--max-restarts 1` and 2 processes; SIGKILL to process 1"
    run = scene.start_by_torchrun("--max-restarts", "1")
    run.wait_for(PERIOD)
    os.kill(run.children("train_net.py")[1], signal.SIGKILL)
    ended = scene.ends(run, 0, _TORCHRUN_SAYS, on="log", quiet=False)
    starts = ended.output.count("Starting training from iteration")
    scene.account.happened.append(f"started {starts} times")
    scene.account.go_on.append("nothing to do")
    scene.account.check(starts == 2, "it should have been started twice")
    scene.ends_as_undisturbed(processes=2)


def asked_to_stop(scene: Scene) -> None:
    """By a scheduler."""
    _asked_to_stop(scene, 1)


def two_asked_to_stop(scene: Scene) -> None:
    """Through the process that has started them."""
    _asked_to_stop(scene, 2)


def _asked_to_stop(scene: Scene, processes: int) -> None:
    scene.account.done = "SIGTERM to the process that was started"
    run = scene.start(processes=processes)
    run.wait_for(PERIOD - 1)
    os.kill(run.process.pid, signal.SIGTERM)
    scene.ends(run, 128 + signal.SIGTERM, "stopped after .* iterations; --resume continues there")
    scene.resumes(processes=processes)


def interrupted(scene: Scene) -> None:
    """Ctrl-C."""
    _interrupted(scene, 1)


def two_interrupted(scene: Scene) -> None:
    """Ctrl-C in a terminal with two processes."""
    _interrupted(scene, 2)


def _interrupted(scene: Scene, processes: int) -> None:
    scene.account.done = "SIGINT to all processes of the run, as a terminal sends it"
    run = scene.start(processes=processes)
    run.wait_for(PERIOD)
    run.signal_all(signal.SIGINT)
    scene.ends(run, 128 + signal.SIGINT, "interrupted.*--resume")
    scene.resumes(processes=processes)
