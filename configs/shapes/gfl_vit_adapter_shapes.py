"""GFL on the backbone of the quick start."""

from ..common.data.shapes_instance import dataloader, test
from ..common.models.gfl import gfl
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = gfl(backbone, num_classes=8, channels=64)
dataloader.train.mapper.use_instance_mask = False
test.ms_merge.iou_threshold = 0.6

optimizer.lr = 1e-3
train.output_dir = "output/gfl_shapes"
train.seed = 1
train.max_iter = 400
train.eval_period = 0
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=100)
