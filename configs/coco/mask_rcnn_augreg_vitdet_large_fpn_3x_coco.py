"""Mask R-CNN, ViTDet-L, AugReg-L, 3x+MS, on COCO.

Published: box AP 49.1, mask AP 44.0.
A row of the paper without a configuration: a plain ViT whose blocks all have windows, with
convolutions between them; the recipe is the plain ViT's.
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
    released="",
    metrics=dict(box_AP=49.1, mask_AP=44.0),
)

model = mask_rcnn(vit_pyramid("large", "vit_large_patch16_384", windowed=True))
model.backbone.bottom_up.vit.window_sizes = (14,)
model.backbone.bottom_up.propagation_blocks = "${.out_blocks}"
model.pixel_mean = model.pixel_std = HALF

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
