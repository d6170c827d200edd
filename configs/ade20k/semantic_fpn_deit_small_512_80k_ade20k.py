"""Semantic FPN, plain ViT-S, DeiT, on ADE20K.

Published: mIoU 44.6, multi-scale 45.8. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.pyramid import vit_pyramid
from ..common.models.semantic_fpn import semantic_fpn
from ..common.optim import adamw
from ..common.schedules import poly
from ..common.testing import semantic_test
from ..common.train import train

CROP = 512

zoo = dict(
    pretrained="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
    released="",
    metrics=dict(mIoU=44.6, mIoU_ms=45.8),
)

model = semantic_fpn(vit_pyramid("small", "deit_small_patch16_224"), num_classes=150)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP, mode="whole")

optimizer = adamw(lr=1e-4, weight_decay=1e-4)
train.max_iter = 80_000
lr_multiplier = poly(train.max_iter, power=0.9, warmup_iters=0)
train.init_checkpoint = zoo["pretrained"]
