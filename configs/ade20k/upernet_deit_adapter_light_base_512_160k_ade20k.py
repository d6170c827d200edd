"""UPerNet, ViT-Adapter-light-B, DeiT, crops of 512 pixels, on ADE20K; no number was published."""

from ..common.models.upernet import upernet
from ..common.models.vit_adapter import light_segmentation_backbone
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
    metrics=dict(),
)

model = upernet(light_segmentation_backbone("base", "deit_base_patch16_224"), num_classes=150)

train.init_checkpoint = zoo["pretrained"]
