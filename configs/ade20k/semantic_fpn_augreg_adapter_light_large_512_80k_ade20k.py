"""Semantic FPN, ViT-Adapter-L-light, AugReg, on ADE20K.

Published: mIoU 52.7, multi-scale 53.5. A row of the paper without a configuration:
the schedule is the one its text names (PVT's). It prints 324 M parameters; the light variant
that its code has for ViT-B gives 318 M.
"""

from ..common.models.semantic_fpn import semantic_fpn
from ..common.models.vit_adapter import light_segmentation_backbone
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
    metrics=dict(mIoU=52.7, mIoU_ms=53.5),
)

model = semantic_fpn(light_segmentation_backbone("large", "vit_large_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF

train.init_checkpoint = zoo["pretrained"]
