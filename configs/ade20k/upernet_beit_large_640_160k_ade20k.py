"""UPerNet, plain ViT-L, BEiT, on ADE20K.

Published: mIoU 56.7, multi-scale 57.0. A row of the paper without a configuration:
trained as the model with adapter is.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.pyramid import beit_pyramid
from ..common.models.upernet import upernet
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 640

zoo = dict(
    pretrained=BEIT_LARGE,
    released="",
    metrics=dict(mIoU=56.7, mIoU_ms=57.0),
)

model = upernet(
    beit_pyramid("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.2),
    num_classes=150,
    channels=1024,
    in_channels=1024,
)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP, clamp_ms=True)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24)
train.max_iter = 160_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
