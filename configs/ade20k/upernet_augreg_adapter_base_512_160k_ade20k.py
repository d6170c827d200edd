"""UPerNet, ViT-Adapter-B, AugReg, crops of 512 pixels, on ADE20K.

Published: mIoU 51.9, multi-scale 52.5.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.optim import decay_by_key
from ..common.pretrained import AUGREG_BASE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=AUGREG_BASE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_augreg_adapter_base_512_160k_ade20k.pth.tar",
    metrics=dict(mIoU=51.9, mIoU_ms=52.5),
)

model = upernet(segmentation_backbone("base", "vit_base_patch16_384"), num_classes=150)
model.pixel_mean = model.pixel_std = HALF
dataloader = ade20k_semantic(CROP, has_masks=False, pixel_mean=HALF)
test = semantic_test((2048, 512), CROP)

optimizer = decay_by_key(lr=2e-5, weight_decay=0.01, head=10.0)
train.max_iter = 160_000
train.amp = dict(enabled=True, dtype="float16")
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
