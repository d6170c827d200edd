"""Semantic FPN on the backbone of the quick start, from nothing, in minutes on two CPU cores."""

from ..common.data.shapes_semantic import dataloader, test
from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = semantic_fpn(backbone, num_classes=12, fpn_channels=64, channels=64)

optimizer.lr = 1.5e-3
train.output_dir = "output/semantic_fpn_shapes"
train.seed = 1
train.max_iter = 1000
train.eval_period = 500
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=50)
