"""Cascade Mask R-CNN, ViT-Adapter-S, DeiT-S, 3x+MS, on COCO.

Published: box AP 51.5, mask AP 44.3.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.cascade import cascade_mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.3/"
    "cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=51.5, mask_AP=44.3),
)

model = cascade_mask_rcnn(detection_backbone("small", "deit_small_patch16_224"))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
