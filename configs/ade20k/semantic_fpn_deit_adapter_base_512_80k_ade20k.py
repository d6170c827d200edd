"""Semantic FPN, ViT-Adapter-B, DeiT, on ADE20K.

Published: mIoU 47.9, multi-scale 48.9. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import segmentation_backbone
from ..common.pretrained import DEIT_BASE
from .semantic_fpn_deit_adapter_small_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_BASE,
    released="",
    metrics=dict(mIoU=47.9, mIoU_ms=48.9),
)

model = semantic_fpn(segmentation_backbone("base", "deit_base_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
