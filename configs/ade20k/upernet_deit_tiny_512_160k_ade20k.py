"""UPerNet, plain ViT-T, DeiT, on ADE20K.

Published: mIoU 41.7, multi-scale 42.6. A row of the paper without a configuration:
trained as the model with adapter is.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.pyramid import vit_pyramid
from ..common.models.upernet import upernet
from ..common.optim import layer_decay
from ..common.schedules import poly
from ..common.testing import semantic_test
from ..common.train import train

CROP = 512

zoo = dict(
    pretrained="https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth",
    released="",
    metrics=dict(mIoU=41.7, mIoU_ms=42.6),
)

model = upernet(vit_pyramid("tiny", "deit_tiny_patch16_224"), num_classes=150, in_channels=192)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP)

optimizer = layer_decay(lr=1.2e-4, rate=0.95, depth=12, weight_decay=0.01)
train.max_iter = 160_000
train.amp.enabled = True
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
