"""Mask R-CNN, plain ViT-L, AugReg-L, 1x, on COCO.

Published: box AP 45.7, mask AP 41.5.
A row of the paper without a configuration: the recipe is that of its 3x schedule.
"""

from ..common.coco_train import train
from ..common.data.coco_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(box_AP=45.7, mask_AP=41.5),
)

model = mask_rcnn(vit_pyramid("large", "vit_large_patch16_384", windowed=True))
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(12)
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
