"""Learning-rate multipliers with linear warm-up."""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    PolynomialDecayParamScheduler,
)

from vitadapter_d2.solver import ByEpoch, LinearWarmup


def _warmup(scheduler, warmup_iters, max_iter, warmup_factor):
    if not 0 <= warmup_iters < max_iter:  # the rate would end where the schedule does, near 0
        raise ValueError(f"warmup_iters must be in [0, max_iter={max_iter}), got {warmup_iters}")
    return L(LinearWarmup)(
        scheduler=scheduler, warmup_factor=warmup_factor, warmup_length=warmup_iters / max_iter
    )


def cosine(max_iter, warmup_iters, end_value=0.02, warmup_factor=0.01, epochs=None):
    """With ``epochs`` the rate falls from one to the next, and is constant within each."""
    scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=end_value)
    if epochs is not None:
        scheduler = L(ByEpoch)(scheduler=scheduler, epochs=epochs)
    return _warmup(scheduler, warmup_iters, max_iter, warmup_factor)


def steps(epochs, milestones, max_iter, warmup_iters=500, warmup_factor=0.001):
    scheduler = L(MultiStepParamScheduler)(
        values=[0.1**step for step in range(len(milestones) + 1)],
        milestones=milestones,
        num_updates=epochs,
    )
    return _warmup(scheduler, warmup_iters, max_iter, warmup_factor)


def poly(max_iter, power=1.0, warmup_iters=1500):
    scheduler = L(PolynomialDecayParamScheduler)(base_value=1.0, power=power)
    return _warmup(scheduler, warmup_iters, max_iter, 1e-6)
