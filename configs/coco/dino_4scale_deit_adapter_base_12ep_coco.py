"""DINO with four scales, ViT-Adapter-B, DeiT-B, 12 epochs, on COCO.

Not a row of the paper: the recipe is that of DINO's own paper (arXiv 2203.03605) for ResNet-50.
"""

from ..common.models.dino import dino
from ..common.models.vit_adapter import detection_backbone
from ..common.pretrained import DEIT_BASE
from .dino_4scale_deit_adapter_small_12ep_coco import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_BASE,
    released="",
    metrics=dict(),
)

model = dino(detection_backbone("base", "deit_base_patch16_224"))

train.init_checkpoint = zoo["pretrained"]
