"""Cascade Mask R-CNN, ViT-Adapter-B, DeiT-B, 3x+MS, on COCO.

Published: box AP 52.1, mask AP 44.8.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.cascade import cascade_mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_BASE
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_BASE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "cascade_mask_rcnn_deit_adapter_base_fpn_3x_coco.pth",
    metrics=dict(box_AP=52.1, mask_AP=44.8),
)

model = cascade_mask_rcnn(detection_backbone("base", "deit_base_patch16_224"))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
