"""Sparse R-CNN, ViT-Adapter-S, DeiT-S, 3x+MS, on COCO.

Published: box AP 48.1.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.sparse_rcnn import sparse_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.6/"
    "sparse_rcnn_deit_adapter_small_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=48.1),
)

model = sparse_rcnn(detection_backbone("small", "deit_small_patch16_224"))
dataloader.train.mapper.use_instance_mask = False

optimizer = decay_by_key(lr=1e-4, init_proposal=0.25)
optimizer.params.decay_factor.factors = dict(
    norm=0.0, bias=0.0, level_embed=0.0, pos_embed=0.0, init_proposal=0.002
)
train.max_iter = iterations(36)
train.clip_grad_norm = 1.0
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
