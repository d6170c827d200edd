"""Semantic FPN, ViT-Adapter-T, DeiT, on ADE20K.

Published: mIoU 41.7, multi-scale 42.1. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import segmentation_backbone
from ..common.pretrained import DEIT_TINY
from .semantic_fpn_deit_adapter_small_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_TINY,
    released="",
    metrics=dict(mIoU=41.7, mIoU_ms=42.1),
)

model = semantic_fpn(segmentation_backbone("tiny", "deit_tiny_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
