"""Parameter groups and learning-rate factors."""

from vitadapter_d2.solver.lr_factor import LayerDecay, PrefixFactor
from vitadapter_d2.solver.param_groups import param_groups

__all__ = ["LayerDecay", "PrefixFactor", "param_groups"]
