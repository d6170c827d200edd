"""Semantic FPN, plain ViT-B, DeiT, on ADE20K.

Published: mIoU 46.4, multi-scale 47.6. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.semantic_fpn import semantic_fpn
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
    metrics=dict(mIoU=46.4, mIoU_ms=47.6),
)

model = semantic_fpn(vit_pyramid("base", "deit_base_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
