"""UPerNet, ViT-Adapter-L, AugReg, crops of 512 pixels, on ADE20K.

Published: mIoU 53.4, multi-scale 54.4.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_augreg_adapter_large_512_160k_ade20k.pth.tar",
    metrics=dict(mIoU=53.4, mIoU_ms=54.4),
)

model = upernet(segmentation_backbone("large", "vit_large_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=False, pixel_mean=HALF)
test = semantic_test((2048, 512), CROP)

optimizer = layer_decay(lr=2e-5, rate=0.95, depth=24)
train.max_iter = 160_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
