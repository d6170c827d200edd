"""Semantic FPN, plain ViT-S, DeiT, on ADE20K.

Published: mIoU 44.6, multi-scale 45.8. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.semantic_fpn import semantic_fpn
from ..common.pretrained import DEIT_SMALL
from .semantic_fpn_deit_adapter_small_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(mIoU=44.6, mIoU_ms=45.8),
)

model = semantic_fpn(vit_pyramid("small", "deit_small_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
