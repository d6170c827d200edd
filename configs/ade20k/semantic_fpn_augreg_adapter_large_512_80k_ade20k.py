"""Semantic FPN, ViT-Adapter-L, AugReg, on ADE20K.

Published: mIoU 52.9, multi-scale 53.7. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.optim import adamw
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(mIoU=52.9, mIoU_ms=53.7),
)

model = semantic_fpn(segmentation_backbone("large", "vit_large_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF
dataloader = ade20k_semantic(CROP, has_masks=False, pixel_mean=HALF)
test = semantic_test((2048, CROP), CROP, mode="whole")

optimizer = adamw(lr=1e-4, weight_decay=1e-4)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter, power=0.9, warmup_iters=0)
train.init_checkpoint = zoo["pretrained"]
