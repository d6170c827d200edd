"""Fields of the engine for semantic segmentation: how often official runs are evaluated."""

from .train import train

train.eval_period = 16_000
train.best_metric = "sem_seg/mIoU"
