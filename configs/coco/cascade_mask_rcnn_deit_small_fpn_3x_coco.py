"""Cascade Mask R-CNN, plain ViT-S, DeiT-S, 3x+MS, on COCO.

Published: box AP 47.9.
A row of the paper without a configuration: the recipe is that of ViT-B.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.cascade import cascade_mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(box_AP=47.9),
)

model = cascade_mask_rcnn(
    vit_pyramid("small", "deit_small_patch16_224", windowed=True, drop_path_rate=0.2)
)

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
