"""Semantic FPN, plain ViT-T, DeiT, on ADE20K.

Published: mIoU 39.4, multi-scale 40.5. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.semantic_fpn import semantic_fpn
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
    metrics=dict(mIoU=39.4, mIoU_ms=40.5),
)

model = semantic_fpn(vit_pyramid("tiny", "deit_tiny_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
