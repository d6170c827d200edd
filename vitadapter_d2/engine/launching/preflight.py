"""What can be known to fail before a model is built, on the machine that is to run it."""

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf

from vitadapter_d2.data.datasets import datasets_root
from vitadapter_d2.engine.config.overrides import overrides_field
from vitadapter_d2.engine.errors import ConfigError, nearest, told
from vitadapter_d2.engine.training.saving import NOTE, moved, newest_aside
from vitadapter_d2.engine.training.trainer import AMP_DTYPES
from vitadapter_d2.files import replacing

# Whole numbers of a training, and the smallest that they may be.
_LEAST = {
    "train.max_iter": 1,
    "train.log_period": 1,
    "train.checkpointer.period": 1,
    "train.checkpointer.max_to_keep": 1,
    "train.eval_period": 0,
    "train.accumulate": 1,
    "train.seed": -1,
    "dataloader.train.total_batch_size": 1,
    "dataloader.train.num_workers": 0,
    "dataloader.test.num_workers": 0,
}
_ABOVE_0 = ("train.clip_grad_norm", "train.ddp_timeout_minutes")
_MAY_BE_NONE = ("train.checkpointer.max_to_keep", "train.clip_grad_norm")
_TEXTS = ("train.output_dir", "train.init_checkpoint", "train.device", "train.best_metric")
_LOGGED_CONFIG = re.compile(r"Command line arguments: .*?\bconfig_file='([^']*)'")


def check_run(cfg: DictConfig, args: Namespace, processes: int, world_size: int) -> list[str]:
    """Asks whether a run can start here.

    Args:
        cfg: a LazyConfig with ``train`` and ``dataloader``, overridden.
        args: Detectron2's flags, ``opts`` among them.
        processes: on this machine.
        world_size: processes on all machines.

    Returns:
        What the user should know although nothing is wrong, one sentence each.

    Raises:
        ConfigError, FileNotFoundError: what is wrong, and where it was looked for.
    """
    check_values(cfg)
    remarks = check_devices(cfg, args.opts, processes)
    check_data(cfg)
    check_weights(cfg, args.resume)
    if not args.eval_only:
        _check_batch(cfg, world_size)
    check_output(cfg)
    return [*remarks, *([] if args.eval_only else _earlier_run(cfg, args.resume))]


def check_devices(cfg: DictConfig, overrides: list[str], processes: int) -> list[str]:
    """Refuses GPUs that are not there; tells when several processes share a CPU.

    Without a GPU, several processes must be asked for by name: ``train.device=cpu`` on the command
    line or an empty ``CUDA_VISIBLE_DEVICES``. A broken driver is else met as a slow run.

    Args:
        cfg: its ``train.device`` counts.
        overrides: as on the command line.
        processes: on this machine.

    Returns:
        See :func:`check_run`.

    Raises:
        ConfigError: no such device.
    """
    device, gpus = _device(cfg), torch.cuda.device_count()
    asked = f"{processes} processes on this machine"
    if device.type == "cuda":
        _check_gpus(device, gpus, processes, asked)
    elif device.type == "cpu" and processes > 1:
        named = overrides_field(overrides, "train.device")
        if not (named or gpus or os.environ.get("CUDA_VISIBLE_DEVICES") == ""):
            raise ConfigError(
                f"{asked} need as many GPUs, and {_what_torch_sees(gpus)}; "
                "train.device=cpu runs them on the CPU"
            )
        return [f"{asked} share {os.cpu_count()} CPU cores (gloo), since train.device=cpu"]
    return []


def _device(cfg: DictConfig) -> torch.device:
    try:
        return torch.device(cfg.train.device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"train.device must be cpu or cuda, got {cfg.train.device!r}") from error


def _check_gpus(device: torch.device, gpus: int, processes: int, asked: str) -> None:
    if not gpus:
        raise ConfigError(
            f"train.device={device}, but {_what_torch_sees(gpus)}; train.device=cpu runs on the CPU"
        )
    if device.index is not None and processes > 1:
        raise ConfigError(
            f"train.device={device} would put {asked} on one GPU: train.device=cuda gives each its "
            "own, CUDA_VISIBLE_DEVICES says which"
        )
    wanted = processes if device.index is None else device.index + 1
    if wanted > gpus:
        what = asked if device.index is None else f"train.device={device}"
        raise ConfigError(f"{what} cannot be had: {_what_torch_sees(gpus)}")


def _what_torch_sees(gpus: int) -> str:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    limit = "" if visible is None else f", CUDA_VISIBLE_DEVICES={visible!r}"
    count = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "no GPU"
    return f"torch {torch.__version__} ({build}{limit}) sees {count}"


def check_data(cfg: DictConfig) -> None:
    """Asks whether the data sets of ``dataloader`` are registered.

    Raises:
        ConfigError: one that is not, with the nearest names.
    """
    registered = DatasetCatalog.list()
    for key, name in _data_sets(cfg):
        if name not in registered:
            raise ConfigError(
                f"{key}: no data set is called {name}; nearest: "
                f"{', '.join(nearest(name, registered))} (datasets/README.md lists the names and "
                "says how to add one)"
            )


def explain_missing_file(cfg: DictConfig, error: OSError) -> str | None:
    """The data set that a missing file belongs to, and where it was looked for.

    Returns:
        None if it belongs to none of the config's data sets.
    """
    missing = str(error.filename or getattr(error.__cause__, "filename", None) or error)
    for key, name in _data_sets(cfg):
        for place in MetadataCatalog.get(name).as_dict().values():
            if isinstance(place, str) and "/" in place and missing.startswith(place):
                file, root = missing.partition(" does not exist")[0], Path(datasets_root())
                return (
                    f"data set {name} ({key}) lacks {file}: data sets are looked for below "
                    f"{root.absolute()} (DETECTRON2_DATASETS, else ./datasets); "
                    "datasets/README.md says how to get and prepare them"
                )
    return None


def _data_sets(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Keys and names of what is read by Detectron2's function, and of what is evaluated."""
    loader = cfg.get("dataloader") or OmegaConf.create()
    for part in ("train", "test"):
        names = OmegaConf.select(loader, f"{part}.dataset.names")
        for name in [names] if isinstance(names, str) else names or []:
            yield f"dataloader.{part}.dataset.names", name
    evaluators = loader.get("evaluator", [])
    several = enumerate(evaluators) if isinstance(evaluators, ListConfig) else [("", evaluators)]
    for index, evaluator in several:
        name = evaluator.get("dataset_name") if isinstance(evaluator, DictConfig) else None
        key = f"dataloader.evaluator.{index}" if index != "" else "dataloader.evaluator"
        if isinstance(name, ListConfig):
            raise ConfigError(
                f"{key}.dataset_name is a list, {', '.join(name)}: an evaluator takes one data "
                "set, so dataloader.test.dataset.names must be one name"
            )
        if isinstance(name, str):
            yield f"{key}.dataset_name", name


def check_weights(cfg: DictConfig, resume: bool) -> None:
    """Asks whether the file that a run starts from is there; URLs are not tried.

    Raises:
        ConfigError: it is not.
    """
    weights = moved(cfg.train.init_checkpoint, Path(cfg.train.output_dir))
    goes_on = resume and _last_checkpoint(cfg) and not cfg.train.get("trained_only", False)
    if not weights or goes_on or "://" in weights or Path(weights).is_file():
        return
    what = "is a folder" if Path(weights).is_dir() else "does not exist"
    raise ConfigError(
        f"train.init_checkpoint={weights}: {Path(weights).absolute()} {what}; a file or a URL is "
        "needed (an empty train.init_checkpoint= starts from nothing)"
    )


def check_output(cfg: DictConfig) -> None:
    """Asks whether ``train.output_dir`` can be made and written to.

    Raises:
        ConfigError: it cannot.
    """
    folder = Path(cfg.train.output_dir)
    probe = folder / ".writable"
    try:
        with replacing(probe) as file:
            file.write(b"")
        probe.unlink(missing_ok=True)  # another process may have been faster
    except OSError as error:
        raise ConfigError(
            f"train.output_dir={folder} cannot be written to: {told(error)}"
        ) from error


def check_values(cfg: DictConfig) -> None:
    """Asks whether the engine's own fields can have their values; what is not there is passed over.

    Raises:
        ConfigError: one that cannot, with what is legal.
    """
    for key in _TEXTS:
        if not isinstance(value := _value(cfg, key, ""), str | Path):
            raise ConfigError(f"{key} must be text, got {value!r}; {key}='\"...\"' is text")
    for key, least in _LEAST.items():
        value = _value(cfg, key, least)
        if not _may_be_none(key, value) and not (_is(value, int) and value >= least):
            raise ConfigError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key in _ABOVE_0:
        value = _value(cfg, key, 1)
        if not _may_be_none(key, value) and not (_is(value, int | float) and value > 0):
            legal = "a number above 0" + (", or null" if key in _MAY_BE_NONE else "")
            raise ConfigError(f"{key} must be {legal}, got {value!r}")
    if (dtype := _value(cfg, "train.amp.dtype", "bfloat16")) not in AMP_DTYPES:
        raise ConfigError(f"train.amp.dtype must be {' or '.join(AMP_DTYPES)}, got {dtype!r}")


def _value(cfg: DictConfig, key: str, default: Any) -> Any:
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, place)
    return node[name] if isinstance(node, DictConfig) and name in node else default


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _may_be_none(key: str, value: Any) -> bool:
    return value is None and key in _MAY_BE_NONE


def _check_batch(cfg: DictConfig, world_size: int) -> None:
    batch: Any = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    accumulate = cfg.train.get("accumulate", 1)
    parts = world_size * accumulate
    if isinstance(batch, int) and (batch < parts or batch % parts):
        times = f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise ConfigError(
            f"dataloader.train.total_batch_size={batch} cannot be shared by {world_size} "
            f"processes: it must be a multiple of their number{times}"
        )


def _last_checkpoint(cfg: DictConfig) -> str:
    note = Path(cfg.train.output_dir, NOTE)
    return note.read_text().strip() if note.is_file() else ""


def _earlier_run(cfg: DictConfig, resume: bool) -> list[str]:
    """What a run that does not resume would write over, or what one cannot resume."""
    folder, last = Path(cfg.train.output_dir), _last_checkpoint(cfg)
    if resume:
        if last:
            return []
        aside = newest_aside(folder)
        told = f"; an earlier run is in {aside}, train.output_dir={aside} continues it"
        return [
            f"--resume: no checkpoint in {folder} yet, starting from "
            f"{cfg.train.init_checkpoint or 'nothing'}{told if aside else ''}"
        ]
    if not last and not (folder / "metrics.json").is_file():
        return []
    log = folder / "log.txt"
    found = _LOGGED_CONFIG.findall(log.read_text(errors="replace")) if log.is_file() else []
    whose = f" of {found[-1]}" if found else f" (its config: {folder / 'config.yaml'})"
    return [
        f"warning: {folder} holds a run{whose}, last checkpoint {last or 'none'}: its checkpoints "
        "and records are moved into a folder of their own there; --resume continues it instead"
    ]
