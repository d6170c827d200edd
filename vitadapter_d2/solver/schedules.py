"""Learning-rate schedules that change another schedule, as mmcv's hooks do."""

import math

from fvcore.common.param_scheduler import ParamScheduler


class LinearWarmup(ParamScheduler):
    """Another schedule, scaled by a factor that rises linearly to 1.

    Reference: mmcv's ``LrUpdaterHook`` and facebookresearch/Mask2Former's ``WarmupPolyLR``. They
    scale the rate that is due; Detectron2's ``WarmupParamScheduler`` instead draws a line to the
    rate at the end of the warm-up, which is another curve where the schedule falls from the start.

    Args:
        scheduler: the schedule.
        warmup_factor: what its first value is multiplied by, in [0, 1].
        warmup_length: part of the training that the factor rises in, in [0, 1].

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self, scheduler: ParamScheduler, warmup_factor: float, warmup_length: float
    ) -> None:
        for name, value in (("factor", warmup_factor), ("length", warmup_length)):
            if not 0 <= value <= 1:
                raise ValueError(f"warmup_{name} must be in [0, 1], got {value}")
        self.scheduler = scheduler
        self.warmup_factor = warmup_factor
        self.warmup_length = warmup_length

    def __call__(self, where: float) -> float:
        """The value after this part of the training, in [0, 1]."""
        value = self.scheduler(where)
        if where >= self.warmup_length:
            return value
        return value * (1 - (1 - where / self.warmup_length) * (1 - self.warmup_factor))


class ByEpoch(ParamScheduler):
    """Another schedule, whose value stays what it is at the beginning of an epoch.

    Reference: mmcv's hooks with ``by_epoch``, their default.

    Args:
        scheduler: the schedule.
        epochs: of the training, at least 1.

    Raises:
        ValueError: fewer epochs.
    """

    def __init__(self, scheduler: ParamScheduler, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        self.scheduler = scheduler
        self.epochs = epochs

    def __call__(self, where: float) -> float:
        """The value after this part of the training, in [0, 1]."""
        epoch = math.floor((where + self.WHERE_EPSILON) * self.epochs)
        return self.scheduler(epoch / self.epochs)
