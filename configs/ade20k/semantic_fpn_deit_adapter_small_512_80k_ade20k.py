"""Semantic FPN, ViT-Adapter-S, DeiT, on ADE20K.

Published: mIoU 46.1, multi-scale 46.6. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import adamw
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(mIoU=46.1, mIoU_ms=46.6),
)

model = semantic_fpn(segmentation_backbone("small", "deit_small_patch16_224"), num_classes=150)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP, mode="whole")

optimizer = adamw(lr=1e-4, weight_decay=1e-4)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter, power=0.9, warmup_iters=0)
train.init_checkpoint = zoo["pretrained"]
