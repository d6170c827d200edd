"""Mask R-CNN, ViT-Adapter-S, DeiT-S, 1x, on COCO.

Published: box AP 44.7, mask AP 39.9.
"""

from ..common.coco_train import train
from ..common.data.coco_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(box_AP=44.7, mask_AP=39.9),
)

model = mask_rcnn(detection_backbone("small", "deit_small_patch16_224"))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(12)
train.best_metric = "auto"
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
