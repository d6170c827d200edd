"""UPerNet, plain ViT-T, DeiT, on ADE20K.

Published: mIoU 41.7, multi-scale 42.6. A row of the paper without a configuration:
trained as the model with adapter is.
"""

from ..common.models.pyramid import vit_pyramid
from ..common.models.upernet import upernet
from ..common.optim import layer_decay
from ..common.pretrained import DEIT_TINY
from .upernet_deit_adapter_small_512_160k_ade20k import dataloader, lr_multiplier, test, train

zoo = dict(
    pretrained=DEIT_TINY,
    released="",
    metrics=dict(mIoU=41.7, mIoU_ms=42.6),
)

model = upernet(vit_pyramid("tiny", "deit_tiny_patch16_224"), num_classes=150, in_channels=192)

optimizer = layer_decay(lr=1.2e-4, rate=0.95, depth=12, weight_decay=0.01)
train.init_checkpoint = zoo["pretrained"]
