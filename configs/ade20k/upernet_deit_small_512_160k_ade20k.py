"""UPerNet, plain ViT-S, DeiT, on ADE20K.

Published: mIoU 44.6, multi-scale 45.7. A row of the paper without a configuration:
trained as the model with adapter is.
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.upernet import upernet
from ..common.pretrained import DEIT_SMALL
from .upernet_deit_adapter_small_512_160k_ade20k import (
    dataloader,
    lr_multiplier,
    optimizer,
    test,
    train,
)

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(mIoU=44.6, mIoU_ms=45.7),
)

model = upernet(vit_pyramid("small", "deit_small_patch16_224"), num_classes=150, in_channels=384)

train.init_checkpoint = zoo["pretrained"]
