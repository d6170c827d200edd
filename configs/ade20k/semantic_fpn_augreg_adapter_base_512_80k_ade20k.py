"""Semantic FPN, ViT-Adapter-B, AugReg, on ADE20K.

Published: mIoU 50.7, multi-scale 51.9. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.pretrained import AUGREG_BASE
from .semantic_fpn_augreg_adapter_large_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=AUGREG_BASE,
    released="",
    metrics=dict(mIoU=50.7, mIoU_ms=51.9),
)

model = semantic_fpn(segmentation_backbone("base", "vit_base_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF

train.init_checkpoint = zoo["pretrained"]
