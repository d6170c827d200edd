"""UPerNet, ViT-Adapter-L, BEiT, crops of 640 pixels, on ADE20K.

Published: mIoU 58.0, multi-scale 58.4.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 640

zoo = dict(
    pretrained=BEIT_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.1/"
    "upernet_beit_adapter_large_640_160k_ade20k.pth.tar",
    metrics=dict(mIoU=58.0, mIoU_ms=58.4),
)

model = upernet(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=150,
    channels=1024,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, 640), CROP, clamp_ms=True)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24)
train.max_iter = 160_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
