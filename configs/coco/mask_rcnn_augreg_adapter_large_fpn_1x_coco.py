"""Mask R-CNN, ViT-Adapter-L, AugReg-L, 1x, on COCO.

Published: box AP 48.7, mask AP 43.3.
"""

from ..common.coco_train import train
from ..common.data.coco_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(box_AP=48.7, mask_AP=43.3),
)

model = mask_rcnn(detection_backbone("large", "vit_large_patch16_384"))
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(12)
train.best_metric = "auto"
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
