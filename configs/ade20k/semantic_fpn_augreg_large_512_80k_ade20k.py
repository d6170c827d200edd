"""Semantic FPN, plain ViT-L, AugReg, on ADE20K.

Published: mIoU 51.5, multi-scale 52.0. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.semantic_fpn import semantic_fpn
from ..common.normalization import HALF
from ..common.pretrained import AUGREG_LARGE
from .semantic_fpn_augreg_adapter_large_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(mIoU=51.5, mIoU_ms=52.0),
)

model = semantic_fpn(vit_pyramid("large", "vit_large_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF

train.init_checkpoint = zoo["pretrained"]
