"""Mask R-CNN, plain ViT-L, AugReg-L, 1x, on COCO.

Published: box AP 45.7, mask AP 41.5.
A row of the paper without a configuration: the recipe is that of its 3x schedule.
"""

from ..common.data.coco_instance import dataloader, iterations
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.schedules import steps
from ..common.train import train

zoo = dict(
    pretrained="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.6/"
    "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1--"
    "imagenet2012-steps_20k-lr_0.01-res_384.pth",
    released="",
    metrics=dict(box_AP=45.7, mask_AP=41.5),
)

model = mask_rcnn(vit_pyramid("large", "vit_large_patch16_384", windowed=True))
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(12)
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
