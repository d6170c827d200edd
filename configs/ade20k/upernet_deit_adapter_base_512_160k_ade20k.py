"""UPerNet, ViT-Adapter-B, DeiT, crops of 512 pixels, on ADE20K.

Published: mIoU 48.8, multi-scale 49.7.
"""

from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.pretrained import DEIT_BASE
from .upernet_deit_adapter_small_512_160k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_BASE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_deit_adapter_base_512_160k_ade20k.pth.tar",
    metrics=dict(mIoU=48.8, mIoU_ms=49.7),
)

model = upernet(segmentation_backbone("base", "deit_base_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
