"""UPerNet, ViT-Adapter-S, DeiT, crops of 512 pixels, on ADE20K.

Published: mIoU 46.2, multi-scale 47.1.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=DEIT_SMALL,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_deit_adapter_small_512_160k_ade20k.pth",
    metrics=dict(mIoU=46.2, mIoU_ms=47.1),
)

model = upernet(segmentation_backbone("small", "deit_small_patch16_224"), num_classes=150)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, 512), CROP)

optimizer = layer_decay(lr=6e-5, rate=0.95, depth=12, weight_decay=0.01)
train.max_iter = 160_000
train.amp = dict(enabled=True, dtype="float16")
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
