"""Upgraded Mask R-CNN, plain ViT-B, MAE-B, 50 epochs, on COCO.

Published: box AP 50.1, mask AP 44.6.
A row of the tables without a configuration: the recipe is that of ViT-Adapter-B.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_lsj import dataloader, iterations, test
from ..common.models.mask_rcnn import upgraded_mask_rcnn
from ..common.models.pyramid import vit_pyramid
from ..common.optim import decay_by_key
from ..common.pretrained import MAE_BASE
from ..common.schedules import cosine

zoo = dict(
    pretrained=MAE_BASE,
    released="",
    metrics=dict(box_AP=50.1, mask_AP=44.6),
)

model = upgraded_mask_rcnn(
    vit_pyramid(
        "base",
        "vit_base_patch16_224",
        windowed=True,
        init_values=None,
        drop_path_rate=0.2,
    )
)

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(50)
lr_multiplier = cosine(
    train.max_iter, warmup_iters=2000, end_value=0.01, warmup_factor=0.001, epochs=50
)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
