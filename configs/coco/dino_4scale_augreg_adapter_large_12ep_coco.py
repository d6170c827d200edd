"""DINO with four scales, ViT-Adapter-L, AugReg-L, 12 epochs, on COCO.

Not a row of the paper: the recipe is that of DINO's own paper (arXiv 2203.03605) for ResNet-50.
"""

from ..common.models.dino import dino
from ..common.models.vit_adapter import detection_backbone
from ..common.normalization import HALF
from ..common.pretrained import AUGREG_LARGE
from .dino_4scale_deit_adapter_small_12ep_coco import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(),
)

model = dino(detection_backbone("large", "vit_large_patch16_384"))
model.pixel_mean = model.pixel_std = HALF

train.init_checkpoint = zoo["pretrained"]
