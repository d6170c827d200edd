"""Mask R-CNN, plain ViT-B, DeiT-B, 1x, on COCO.

Published numbers: not at hand.
A row of the paper without a configuration: the recipe is that of its 3x schedule.
"""

from ..common.coco_train import train
from ..common.data.coco_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_BASE
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_BASE,
    released="",
    metrics=dict(),
)

model = mask_rcnn(vit_pyramid("base", "deit_base_patch16_224", windowed=True, drop_path_rate=0.1))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(12)
lr_multiplier = steps(12, [8, 11], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
