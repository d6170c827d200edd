"""Training as the config says."""

import logging
from collections import OrderedDict
from collections.abc import Callable

from detectron2.config import instantiate
from detectron2.engine import HookBase, default_writers, hooks
from detectron2.utils import comm
from omegaconf import DictConfig

from vitadapter_d2 import compat
from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.distributed import synchronize_batch_norm
from vitadapter_d2.engine.evaluate import Results, check_test, do_test
from vitadapter_d2.engine.trainer import Trainer

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
    model = synchronize_batch_norm(instantiate(cfg.model).to(cfg.train.device))
    check_test(cfg, model)
    cfg.optimizer.params.model = model
    trainer = Trainer(
        model=compat.create_ddp_model(model, **cfg.train.ddp),
        data_loader=instantiate(cfg.dataloader.train),
        optimizer=instantiate(cfg.optimizer),
        amp_dtype=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        clip_grad_norm=cfg.train.clip_grad_norm,
    )
    checkpointer = Checkpointer(
        trainer.model,
        cfg.train.output_dir,
        trained_only=cfg.train.get("trained_only", False),
        trainer=trainer,
    )
    results: Results = OrderedDict()

    def evaluate() -> Results:
        nonlocal results
        results = do_test(cfg, trainer.model)
        return results

    trainer.register_hooks(_hooks(cfg, checkpointer, evaluate))
    resuming = resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start_iter = trainer.iter + 1 if resuming else 0
    if start_iter >= cfg.train.max_iter:
        logger.info("All %d iterations are done; evaluating.", cfg.train.max_iter)
        return do_test(cfg, trainer.model)
    trainer.train(start_iter, cfg.train.max_iter)
    return results


def _hooks(
    cfg: DictConfig, checkpointer: Checkpointer, evaluate: Callable[[], Results]
) -> list[HookBase]:
    """In the order in which they run."""
    everywhere = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.EvalHook(cfg.train.eval_period, evaluate),
    ]
    if not comm.is_main_process():
        return everywhere
    *first, evaluation = everywhere
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    return [
        *first,
        hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
        evaluation,
        hooks.PeriodicWriter(writers, period=cfg.train.log_period),
    ]
