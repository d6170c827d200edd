"""Semantic FPN, ViT-Adapter-L, Uni-Perceiver, on ADE20K.

Published: mIoU 54.2, multi-scale 54.7. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import uniperceiver_segmentation_backbone
from ..common.optim import adamw
from ..common.schedules import poly
from ..common.testing import semantic_test
from ..common.train import train

CROP = 512

zoo = dict(
    pretrained="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "uni-perceiver-large-L24-H1024-224size-pretrained_converted.pth",
    released="",
    metrics=dict(mIoU=54.2, mIoU_ms=54.7),
)

model = semantic_fpn(uniperceiver_segmentation_backbone("large"), num_classes=150)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP, mode="whole")

optimizer = adamw(lr=1e-4, weight_decay=1e-4)
train.max_iter = 80_000
lr_multiplier = poly(train.max_iter, power=0.9, warmup_iters=0)
train.init_checkpoint = zoo["pretrained"]
