"""Training as the config says."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from omegaconf import DictConfig

from vitadapter_d2 import compat
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.checkpoint.sharded import is_sharded
from vitadapter_d2.data.seeding import seed_everything, seeded
from vitadapter_d2.engine.config.calls import instantiate, parameters, target_of
from vitadapter_d2.engine.evaluate import Results, check_test, do_test
from vitadapter_d2.engine.own.classes import remembered_classes
from vitadapter_d2.engine.records.run import RunRecord
from vitadapter_d2.engine.records.summary import Summary, count_images
from vitadapter_d2.engine.records.writers import Writers
from vitadapter_d2.engine.training.best import BestCheckpointer
from vitadapter_d2.engine.training.distributed import synchronize_batch_norm
from vitadapter_d2.engine.training.ema import EmaHook, build_ema, tested_weights
from vitadapter_d2.engine.training.saving import (
    PeriodicCheckpointer,
    drop_repeated,
    moved,
    set_aside,
)
from vitadapter_d2.engine.training.sharding import shard_if_asked, shard_loaded_state, whole_weights
from vitadapter_d2.engine.training.stopping import Stopping
from vitadapter_d2.engine.training.throughput import Throughput
from vitadapter_d2.engine.training.trainer import Trainer
from vitadapter_d2.files import remove_partial_files

logger = logging.getLogger(__name__)


def do_train(cfg: DictConfig, resume: bool = False) -> Results:
    """Trains ``cfg.model`` and evaluates it at the end.

    Args:
        cfg: a LazyConfig with ``model``, ``optimizer``, ``lr_multiplier``, ``dataloader`` and
            ``train`` (see ``configs/common/train.py``).
        resume: continue from the newest checkpoint of ``train.output_dir``, if there is one;
            otherwise start from ``train.init_checkpoint``.

    Returns:
        Results of the last evaluation, empty if none was run.

    Raises:
        FileNotFoundError, ValueError: among others, before the first iteration if the model could
            not be evaluated, see :func:`check_test`.
    """
    seed = _seed(cfg)
    seed_everything(seed)
    model = synchronize_batch_norm(instantiate(cfg.model).to(cfg.train.device))
    test_images = count_images(check_test(cfg, model))
    model = shard_if_asked(cfg, model)
    cfg.optimizer.params.model = model
    ema = build_ema(cfg, model)
    trainer = Trainer(
        model=model if is_sharded(model) else compat.create_ddp_model(model, **cfg.train.ddp),
        data_loader=[],  # not before the seed is known
        optimizer=instantiate(cfg.optimizer),
        amp_dtype=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        clip_grad_norm=cfg.train.clip_grad_norm,
        accumulate=cfg.train.get("accumulate", 1),
        seed=seed,
        output_dir=cfg.train.output_dir,
    )
    if is_sharded(model):
        shard_loaded_state(trainer.optimizer)
    classes = remembered_classes(cfg)
    parts: dict[str, Any] = {**classes, "trainer": trainer, "run": RunRecord(cfg)}
    parts |= {"ema": ema} if ema else {}
    checkpointer = Checkpointer(
        trainer.model,
        cfg.train.output_dir,
        trained_only=cfg.train.get("trained_only", False),
        other_classes=bool(classes),
        other_model="load_from" in cfg.get("zoo", {}),  # of other classes, as published
        **parts,
    )
    results: Results = OrderedDict()

    def evaluate() -> Results:
        nonlocal results
        with tested_weights(cfg, ema), whole_weights(model):
            results = do_test(cfg, trainer.model)
        return results

    trainer.register_hooks(_hooks(cfg, checkpointer, evaluate, test_images))
    start_iter = _start(cfg, trainer, checkpointer, resume)
    if start_iter >= cfg.train.max_iter:
        logger.info("All %d iterations are done; evaluating.", cfg.train.max_iter)
    trainer.data_loader = build_loader(cfg, trainer.seed)
    trainer.train(min(start_iter, cfg.train.max_iter), cfg.train.max_iter)
    return results


def build_loader(cfg: DictConfig, seed: int) -> Iterable[list[dict[str, Any]]]:
    """The training loader as ``cfg.dataloader.train`` says, for exact repetition.

    Args:
        cfg: a LazyConfig; with ``train.accumulate`` above 1, micro-batches share its
            ``total_batch_size``.
        seed: of a loader that has one and is not given another, and of samplers that draw theirs.

    Raises:
        ValueError: the batch cannot be divided.
    """
    loader = copy.deepcopy(cfg.dataloader.train)  # the config stays as it was saved
    accumulate = cfg.train.get("accumulate", 1)
    if accumulate > 1:
        total = loader.get("total_batch_size", 0)
        if total < 1 or total % accumulate:
            raise ValueError(
                f"train.accumulate={accumulate} must divide dataloader.train.total_batch_size, "
                f"which is {total}"
            )
        loader.total_batch_size = total // accumulate
    takes = parameters(target_of("dataloader.train", loader)) if "_target_" in loader else {}
    if "seed" in takes and loader.get("seed") is None:
        loader.seed = seed
    with seeded(seed):
        return instantiate(loader)


def _seed(cfg: DictConfig) -> int:
    seed = cfg.train.get("seed", -1)
    return seed if seed >= 0 else comm.shared_random_seed()


def _start(cfg: DictConfig, trainer: Trainer, checkpointer: Checkpointer, resume: bool) -> int:
    """Loads what there is to load; returns the first iteration to run."""
    output = Path(cfg.train.output_dir)
    if comm.is_main_process():
        remove_partial_files(output)
        if not resume:
            set_aside(output)
    comm.synchronize()
    trainer.iter = -1  # none is done
    checkpointer.resume_or_load(moved(cfg.train.init_checkpoint, output), resume=resume)
    start_iter = trainer.iter + 1
    if len(found := set(comm.all_gather(start_iter))) > 1:
        raise RuntimeError(f"the processes found checkpoints of different iterations, {found}")
    given = cfg.train.get("seed", -1)
    if given >= 0 and given != trainer.seed:
        logger.warning("train.seed=%d, until here the run had %d.", given, trainer.seed)
        trainer.seed = given
    logger.info("The run's seed is %d.", trainer.seed)
    if resume:
        is_main = comm.is_main_process()
        is_extended = start_iter < cfg.train.max_iter
        is_done = is_main and drop_repeated(
            output / "metrics.json", start_iter, is_extended=is_extended
        )
        trainer.redoes_last = start_iter > 0 and not comm.all_gather(is_done)[0]
    return start_iter


def _hooks(
    cfg: DictConfig,
    checkpointer: Checkpointer,
    evaluate: Callable[[], Results],
    test_images: int | None,
) -> list[HookBase]:
    """In the order in which they run."""
    train, parts = cfg.train, checkpointer.checkpointables
    ema = parts.get("ema")
    first = [
        *([EmaHook(ema)] if ema else []),  # before the timer, which counts it in
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
    ]
    metric = train.get("best_metric", "")
    best = BestCheckpointer(train.eval_period, checkpointer, metric) if metric else None
    saving = PeriodicCheckpointer(checkpointer, eval_period=train.eval_period, **train.checkpointer)
    if not comm.is_main_process():
        takes_part = is_sharded(checkpointer.model)
        return [
            *first,
            *([saving] if takes_part else []),
            Stopping(checkpointer),
            hooks.EvalHook(train.eval_period, evaluate),
            *([best] if best and takes_part else []),
        ]
    summary = Summary(cfg, parts["run"], best, test_images)
    return [
        *first,
        Throughput(cfg.dataloader.train.get("total_batch_size", 1), train.log_period),
        saving,
        Stopping(checkpointer),
        hooks.EvalHook(train.eval_period, summary.recording(evaluate)),
        *([best] if best else []),
        summary,
        Writers(cfg),
    ]
