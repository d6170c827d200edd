"""UPerNet, plain ViT-B, DeiT, on ADE20K.

Published: mIoU 46.1, multi-scale 47.1. A row of the paper without a configuration:
trained as the model with adapter is.
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.upernet import upernet
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
    released="",
    metrics=dict(mIoU=46.1, mIoU_ms=47.1),
)

model = upernet(vit_pyramid("base", "deit_base_patch16_224"), num_classes=150, in_channels=768)

train.init_checkpoint = zoo["pretrained"]
