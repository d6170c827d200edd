"""Semantic FPN, ViT-Adapter-L, Uni-Perceiver, on ADE20K.

Published: mIoU 54.2, multi-scale 54.7. A row of the paper without a configuration:
the schedule is the one its text names (PVT's).
"""

from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import uniperceiver_segmentation_backbone
from ..common.pretrained import UNIPERCEIVER_LARGE
from .semantic_fpn_deit_adapter_small_512_80k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=UNIPERCEIVER_LARGE,
    released="",
    metrics=dict(mIoU=54.2, mIoU_ms=54.7),
)

model = semantic_fpn(uniperceiver_segmentation_backbone("large"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
