"""Learning-rate multipliers with linear warm-up."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    PolynomialDecayParamScheduler,
)


def _warmup(scheduler, warmup_iters, max_iter, warmup_factor):
    if not 0 <= warmup_iters < max_iter:  # the rate would end where the schedule does, near 0
        raise ValueError(f"warmup_iters must be in [0, max_iter={max_iter}), got {warmup_iters}")
    return L(WarmupParamScheduler)(
        scheduler=scheduler,
        warmup_factor=warmup_factor,
        warmup_length=warmup_iters / max_iter,
        warmup_method="linear",
    )


def cosine(max_iter, warmup_iters, end_value=0.02):
    scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=end_value)
    return _warmup(scheduler, warmup_iters, max_iter, 0.01)


def steps(epochs, milestones, max_iter, warmup_iters=500):
    scheduler = L(MultiStepParamScheduler)(
        values=[0.1**step for step in range(len(milestones) + 1)],
        milestones=milestones,
        num_updates=epochs,
    )
    return _warmup(scheduler, warmup_iters, max_iter, 0.001)


def poly(max_iter, power=1.0, warmup_iters=1500):
    scheduler = L(PolynomialDecayParamScheduler)(base_value=1.0, power=power)
    return _warmup(scheduler, warmup_iters, max_iter, 1e-6)
