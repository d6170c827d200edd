"""Detectron2's own Mask R-CNN on the backbone of the quick start."""

from ..common.data.shapes_instance import dataloader, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter_mini import backbone
from ..common.optim import optimizer
from ..common.schedules import cosine
from ..common.train import train

model = mask_rcnn(backbone, num_classes=8, channels=64, box_dim=256)
model.proposal_generator.anchor_generator.sizes = [[16], [24], [32], [48], [64]]
model.proposal_generator.pre_nms_topk = (500, 200)
model.proposal_generator.post_nms_topk = (200, 100)
model.roi_heads.batch_size_per_image = 64

optimizer.lr = 1e-3
train.output_dir = "output/mask_rcnn_shapes"
train.seed = 1
train.max_iter = 600
train.eval_period = 0
train.clip_grad_norm = 1.0
lr_multiplier = cosine(train.max_iter, warmup_iters=100)
