"""Mask R-CNN, plain ViT-L, AugReg-L, 3x+MS, on COCO.

Published: box AP 48.3, mask AP 43.3.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask_rcnn_augreg_large_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=48.3, mask_AP=43.3),
)

model = mask_rcnn(vit_pyramid("large", "vit_large_patch16_384", windowed=True))
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
