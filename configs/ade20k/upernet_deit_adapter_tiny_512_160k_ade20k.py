"""UPerNet, ViT-Adapter-T, DeiT, crops of 512 pixels, on ADE20K.

Published: mIoU 42.6, multi-scale 43.6.
"""

from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import DEIT_TINY
from .upernet_deit_adapter_small_512_160k_ade20k import dataloader, lr_multiplier, test, train

zoo = dict(
    pretrained=DEIT_TINY,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_deit_adapter_tiny_512_160_ade20k.pth.tar",
    metrics=dict(mIoU=42.6, mIoU_ms=43.6),
)

model = upernet(segmentation_backbone("tiny", "deit_tiny_patch16_224"), num_classes=150)

optimizer = layer_decay(lr=0.00012, rate=0.95, depth=12, weight_decay=0.01)
train.init_checkpoint = zoo["pretrained"]
