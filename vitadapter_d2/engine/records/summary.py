"""``summary.md``: what a run was, what it took and what came of it."""

import json
import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from omegaconf import DictConfig
from tabulate import tabulate

from vitadapter_d2.engine.config.flat import Plain, flat_config
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.evaluate import Results, records_behind, summary_line
from vitadapter_d2.engine.records.hardware import hardware
from vitadapter_d2.engine.records.metric_names import is_of_one_class
from vitadapter_d2.engine.records.run import RunRecord
from vitadapter_d2.engine.training.best import BEST, BestCheckpointer
from vitadapter_d2.engine.training.saving import NOTE
from vitadapter_d2.engine.training.stopping import StoppedError
from vitadapter_d2.engine.training.throughput import peak_memory
from vitadapter_d2.files import replacing

logger = logging.getLogger(__name__)

FILE = "summary.md"
_UNSET = "(not set)"
_SHOWN = 20  # names of classes
_OWN_FIELDS = ("train.source.", "train.output_dir", "train.classes.")  # told elsewhere


class Summary(HookBase):
    """Writes ``summary.md`` when training starts, after each evaluation and at the end.

    So the file tells how far a run came that was killed. Comes last but for the writers, in the
    main process.

    Args:
        cfg: a LazyConfig; ``train.source`` says which file it was read from, and by what command.
        run: all parts of the run.
        best: keeps the best checkpoint, if one is kept.
        test_images: how many are evaluated; None if that is not known.
    """

    def __init__(
        self,
        cfg: DictConfig,
        run: RunRecord,
        best: BestCheckpointer | None = None,
        test_images: int | None = None,
    ) -> None:
        self.cfg = cfg
        self.run = run
        self.best = best
        self.results: Results = {}
        self.done = 0  # iterations
        self.evaluated_after = 0
        self.images = {"test": test_images}
        self.differences: str = ""
        self._start = time.perf_counter()
        self._started = datetime.now()

    def recording(self, evaluate: Callable[[], Results]) -> Callable[[], Results]:
        """An evaluation whose results, or failure, the summary will have."""

        def recorded() -> Results:
            self.done = min(self.trainer.iter + 1, self.trainer.max_iter)
            try:
                self.results = evaluate()
            except BaseException as error:
                self.write(_failure(error))
                raise
            self.evaluated_after = self.done
            return self.results

        return recorded

    def before_train(self) -> None:
        """Writes what the run is to be."""
        self.done = self.trainer.start_iter
        self.differences = self._differences()  # now: the base may be edited during the run
        self.images["train"] = count_images(self.trainer.data_loader)
        self.write("running")

    def after_step(self) -> None:
        """Writes what is known after an evaluation."""
        self.done = self.trainer.iter + 1
        if self.results and self.evaluated_after == self.done:
            self.write("running")

    def after_train(self) -> None:
        """Writes how the run ended."""
        error = sys.exc_info()[1]
        if isinstance(error, StoppedError):  # by a hook before this one
            self.done = error.iterations
        if self.trainer.iter >= self.trainer.max_iter:
            self.write("finished")
        else:
            self.write("stopped" if error is None else _failure(error))

    def write(self, state: str) -> None:
        """Writes the file, as a whole or not at all; a full disk does not end the training."""
        output = Path(self.cfg.train.output_dir)
        sections = {
            f"Summary of {output.resolve().name}": _bullets(self._run(state)),
            "Results": self._results(),
            "Evaluate again": self._command(),
            "Differences from the base config": self.differences,
            "Data": _table(("part", "data sets", "images"), self._data()) + self._classes(),
            "Hardware and software": _bullets(hardware(self.trainer.device)),
        }
        parts = [
            f"{'#' if not index else '##'} {title}\n\n{text}\n"
            for index, (title, text) in enumerate(sections.items())
            if text
        ]
        try:
            with replacing(output / FILE, "w") as file:
                file.write("\n".join(parts))
        except OSError as error:
            logger.warning("%s is not up to date: %s", output / FILE, error)

    def _run(self, state: str) -> dict[str, str]:
        trainer, histories = self.trainer, self.trainer.storage.histories()
        seconds = time.perf_counter() - self._start
        told = {
            "state": state,
            "iterations": f"{self.done} of {trainer.max_iter}; this run began at "
            f"{trainer.start_iter}",
            "started": f"{self._started:%Y-%m-%d %H:%M:%S}",
            "time": f"{timedelta(seconds=round(seconds))}, evaluations and all",
        }
        if self.run.parts > 1:
            told["in all"] = (
                f"{timedelta(seconds=round(self.run.seconds))} in {self.run.parts} parts, the "
                f"first started {self.run.started}; what was done again is not counted twice"
            )
        if "time" in histories:
            told["speed"] = f"{histories['time'].global_avg():.4g} s/it"
        if "images_per_s" in histories:
            told["speed"] += f", {histories['images_per_s'].latest():.4g} images/s at the end"
        if "data_share" in histories:
            told["waiting for data"] = f"{histories['data_share'].global_avg():.1%} of the time"
        if skipped := getattr(trainer.data_loader, "skipped", 0):
            told["samples that could not be read"] = f"{skipped}, skipped and named in the log"
        for name, size in peak_memory(trainer.device).items():
            told[f"{name.removesuffix('_MiB').replace('_', ' ')} memory"] = f"{size:.0f} MiB"
        return told

    def _results(self) -> str:
        if not self.results:
            return "None: nothing was evaluated."
        rows = [
            (*name.rsplit("/", 1), f"{value:.3f}")
            for name, value in flatten_results_dict(self.results).items()
            if not is_of_one_class(name)
        ]
        lines = [f"{summary_line(self.results)}, after {self.evaluated_after} iterations."]
        if self.best and self.best.best_metric is not None:
            after = min((self.best.best_iter or 0) + 1, self.trainer.max_iter)
            lines.append(
                f"Best {self.best.metric}: {self.best.best_metric:.3f}, after {after} iterations, "
                f"in `{BEST}.pth`."
            )
        return "\n\n".join([*lines, _table(("task", "metric", "value"), rows)])

    def _command(self) -> str:
        output = Path(self.cfg.train.output_dir)
        last = output / NOTE
        is_best = self.best is not None and self.best.best_metric is not None
        names = [
            *([f"{BEST}.pth"] if is_best else []),  # else it is another run's
            *([last.read_text()] if last.is_file() else []),
        ]
        checkpoint = next((output / name for name in names if (output / name).is_file()), None)
        command = _evaluation(self.cfg, checkpoint) if checkpoint else None
        return f"```\n{command}\n```" if command else ""

    def _differences(self) -> str:
        base = self.cfg.train.get("source", {}).get("config_file")
        if not base:
            return ""
        rows = differences(flat_config(load_config(base)), flat_config(self.cfg))
        text = _table(("field", "base", "this run"), rows) if rows else "None."
        return f"Base: `{base}`\n\n{text}"

    def _data(self) -> list[tuple[str, str, str]]:
        return [
            (part, _names(self.cfg.dataloader[part]), str(self.images.get(part) or "not counted"))
            for part in ("train", "test")
        ]

    def _classes(self) -> str:
        """Those of the user's own data: they stand in no file of the project."""
        own = self.cfg.train.get("classes")
        if not own:
            return ""
        names = [*own.thing_classes, *own.stuff_classes]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"\n\n{len(names)} classes: {', '.join(names[:_SHOWN])}{more}"


def differences(base: dict[str, Plain], config: dict[str, Plain]) -> list[tuple[str, str, str]]:
    """Fields whose values differ: path, value in the base, value in the other."""
    return [
        (name, _shown(base, name), _shown(config, name))
        for name in dict.fromkeys((*base, *config))
        if not name.startswith(_OWN_FIELDS)
        and (name not in base or name not in config or base[name] != config[name])
    ]


def count_images(loader: Any) -> int | None:
    """Images behind a data loader, or None if it does not tell."""
    records = records_behind(loader)
    return None if records is None else len(records)


def _evaluation(cfg: DictConfig, checkpoint: Path) -> str | None:
    """The command that evaluates a checkpoint as this run did."""
    # Elsewhere: the run's own config, log and pictures stay.
    output = Path(cfg.train.output_dir)
    replaced = ("train.init_checkpoint=", "train.output_dir=")
    values = checkpoint, output / "evaluation"
    added = [field + _quoted(value) for field, value in zip(replaced, values, strict=True)]
    if command := list(cfg.train.get("source", {}).get("command", ())):
        script, *arguments = (
            one for one in command if one != "--resume" and not one.startswith(replaced)
        )
        return shlex.join(["python", script, "--eval-only", *arguments, *added])
    config = output / "config.yaml"
    if not config.is_file():
        return None
    tool = "tools/train_net.py"
    return shlex.join(["python", tool, "--config-file", str(config), "--eval-only", *added])


def _quoted(path: Path) -> str:
    """As an override needs it."""
    return str(path) if re.fullmatch(r"[\w./ -]+", str(path)) else json.dumps(str(path))


def _failure(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"


def _names(loader: DictConfig) -> str:
    names = loader.get("dataset", {}).get("names", "")
    return names if isinstance(names, str) else ", ".join(names)


def _shown(config: dict[str, Plain], name: str) -> str:
    return str(config[name]) if name in config else _UNSET


def _bullets(entries: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())


def _table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(escaped, headers=headers, tablefmt="github", disable_numparse=True)
