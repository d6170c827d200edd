"""ATSS, ViT-Adapter-S, DeiT-S, 3x+MS, on COCO.

Published: box AP 49.6.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.atss import atss
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps

zoo = dict(
    pretrained=DEIT_SMALL,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.5/"
    "atss_deit_adapter_small_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=49.6),
)

model = atss(detection_backbone("small", "deit_small_patch16_224"))
dataloader.train.mapper.use_instance_mask = False
test.ms_merge.iou_threshold = 0.6

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
