"""Parameter groups, learning-rate and weight-decay factors, schedules."""

from vitadapter_d2.solver.lr_factor import (
    MASK2FORMER_FIRST_LAYER,
    LayerDecay,
    LrByKey,
    PrefixFactor,
)
from vitadapter_d2.solver.param_groups import param_groups
from vitadapter_d2.solver.schedules import ByEpoch, LinearWarmup
from vitadapter_d2.solver.weight_decay import DecayByKey, ExemptByName, ExemptVectors

__all__ = [
    "MASK2FORMER_FIRST_LAYER",
    "ByEpoch",
    "DecayByKey",
    "ExemptByName",
    "ExemptVectors",
    "LayerDecay",
    "LinearWarmup",
    "LrByKey",
    "PrefixFactor",
    "param_groups",
]
