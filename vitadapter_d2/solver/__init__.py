"""Parameter groups and schedules."""

from vitadapter_d2.solver.layer_decay import LayerDecay
from vitadapter_d2.solver.param_groups import param_groups

__all__ = ["LayerDecay", "param_groups"]
