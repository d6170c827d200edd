"""Mask R-CNN, ViTDet-T, DeiT-T, 3x+MS, on COCO.

Published: box AP 40.4, mask AP 37.1.
A row of the paper without a configuration: a plain ViT whose blocks all have windows, with
convolutions between them; the recipe is the plain ViT's.
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
    released="",
    metrics=dict(box_AP=40.4, mask_AP=37.1),
)

model = mask_rcnn(vit_pyramid("tiny", "deit_tiny_patch16_224", windowed=True, drop_path_rate=0.1))
model.backbone.bottom_up.vit.window_sizes = (14,)
model.backbone.bottom_up.propagation_blocks = "${.out_blocks}"

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
