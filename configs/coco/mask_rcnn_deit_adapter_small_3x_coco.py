"""Mask R-CNN without an FPN, ViT-Adapter-S, DeiT-S, 3x+MS, on COCO.

Published: box AP 48.2, mask AP 42.7.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn_without_fpn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.6/"
    "mask_rcnn_deit_adapter_small_3x_coco.pth.tar",
    metrics=dict(box_AP=48.2, mask_AP=42.7),
)

model = mask_rcnn_without_fpn(detection_backbone("small", "deit_small_patch16_224"))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
