"""UPerNet, ViT-Adapter-T, AugReg, crops of 512 pixels, on ADE20K.

Published: mIoU 43.9, multi-scale 44.8.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import layer_decay
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0--"
    "imagenet2012-steps_20k-lr_0.03-res_224.pth",
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "upernet_augreg_adapter_tiny_512_160_ade20k.pth.tar",
    metrics=dict(mIoU=43.9, mIoU_ms=44.8),
)

model = upernet(segmentation_backbone("tiny", "vit_tiny_patch16_224"), num_classes=150)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, 512), CROP)

optimizer = layer_decay(lr=0.00012, rate=0.95, depth=12, weight_decay=0.01)
train.max_iter = 160_000
train.amp = dict(enabled=True, dtype="float16")
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
