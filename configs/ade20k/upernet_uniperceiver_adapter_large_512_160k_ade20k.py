"""UPerNet, ViT-Adapter-L, Uni-Perceiver, crops of 512 pixels, on ADE20K.

Published: mIoU 55.0, multi-scale 55.4.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import uniperceiver_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import UNIPERCEIVER_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=UNIPERCEIVER_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_uniperceiver_adapter_large_512_160k_ade20k.pth",
    metrics=dict(mIoU=55.0, mIoU_ms=55.4),
)

model = upernet(uniperceiver_segmentation_backbone("large"), num_classes=150)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, 512), CROP)

optimizer = layer_decay(lr=6e-5, rate=0.8, depth=24)
train.max_iter = 160_000
train.amp = dict(enabled=True, dtype="float16")
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
