"""Mask R-CNN, ViT-Adapter-L, AugReg-L, 3x+MS, on COCO.

Published: box AP 52.1, mask AP 46.0.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask_rcnn_augreg_adapter_large_fpn_3x_coco.pth",
    metrics=dict(box_AP=52.1, mask_AP=46.0),
)

model = mask_rcnn(detection_backbone("large", "vit_large_patch16_384"))
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
