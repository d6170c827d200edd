"""Fields of the engine for COCO in batches of 16: evaluated after every epoch."""

from .data.coco_instance import iterations
from .train import train

train.eval_period = iterations(1) + 1  # rounded up: the last epoch's is the final evaluation
