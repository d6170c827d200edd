"""Mask R-CNN, ViT-Adapter-B, AugReg-B, 3x+MS, on COCO.

Published: box AP 50.5, mask AP 44.6.
A row of the paper without a configuration ("IN-22K"): the recipe is that of DeiT-B, the
normalisation the one of AugReg.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.normalization import HALF
from ..common.optim import decay_by_key
from ..common.pretrained import AUGREG_BASE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_BASE,
    released="",
    metrics=dict(box_AP=50.5, mask_AP=44.6),
)

model = mask_rcnn(detection_backbone("base", "vit_base_patch16_384"))
model.pixel_mean = model.pixel_std = HALF

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
