"""Mask R-CNN, ViT-Adapter-T, DeiT-T, 3x+MS, on COCO.

Published: box AP 46.0, mask AP 41.0.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_TINY
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_TINY,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.2/"
    "mask_rcnn_deit_adapter_tiny_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=46.0, mask_AP=41.0),
)

model = mask_rcnn(detection_backbone("tiny", "deit_tiny_patch16_224"))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
