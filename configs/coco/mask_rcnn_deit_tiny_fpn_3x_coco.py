"""Mask R-CNN, plain ViT-T, DeiT-T, 3x+MS, on COCO.

Published: box AP 40.2, mask AP 37.0.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_TINY
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_TINY,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask_rcnn_deit_tiny_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=40.2, mask_AP=37.0),
)

model = mask_rcnn(vit_pyramid("tiny", "deit_tiny_patch16_224", windowed=True, drop_path_rate=0.1))

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
