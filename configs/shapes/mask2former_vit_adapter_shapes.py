"""The quick start's model, trained longer: a quarter of an hour on two CPU cores."""

from ..common.schedules import cosine
from .mask2former_vit_adapter_quickstart import dataloader, model, optimizer, train

model.object_mask_threshold = 0.8
train.output_dir = "output/shapes"
train.max_iter = 4000
train.eval_period = 1000
train.checkpointer.period = 1000
lr_multiplier = cosine(train.max_iter, warmup_iters=50)
