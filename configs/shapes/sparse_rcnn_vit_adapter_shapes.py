"""Sparse R-CNN on the backbone of the quick start."""

from ..common.data.shapes_instance import dataloader, test
from ..common.models.sparse_rcnn import sparse_rcnn
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = sparse_rcnn(
    backbone,
    num_classes=8,
    channels=64,
    num_proposals=40,
    num_stages=4,
    dynamic_dim=16,
    num_heads=4,
    feedforward_dim=256,
)
model.head.box_pooler.canonical_box_size = 56  # the images have 128 pixels, not 800
dataloader.train.mapper.use_instance_mask = False

optimizer.lr = 1e-3
train.output_dir = "output/sparse_rcnn_shapes"
train.seed = 1
train.max_iter = 1000
train.eval_period = 0
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=100)
