"""Mask R-CNN, ViT-Adapter-T, DeiT-T, 1x, on COCO.

Published: box AP 41.1, mask AP 37.5.
"""

from ..common.coco_train import train
from ..common.data.coco_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_TINY
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_TINY,
    released="https://huggingface.co/czczup/ViT-Adapter/resolve/main/"
    "mask_rcnn_deit_adapter_tiny_fpn_1x_coco.pth",
    metrics=dict(box_AP=41.1, mask_AP=37.5),
)

model = mask_rcnn(detection_backbone("tiny", "deit_tiny_patch16_224"))

optimizer = decay_by_key(lr=2e-4, weight_decay=0.01)
train.max_iter = iterations(12)
train.best_metric = "auto"
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
