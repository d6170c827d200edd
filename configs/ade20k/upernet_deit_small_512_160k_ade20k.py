"""UPerNet, plain ViT-S, DeiT, on ADE20K.

Published: mIoU 44.6, multi-scale 45.7. A row of the paper without a configuration:
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
    pretrained="https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
    released="",
    metrics=dict(mIoU=44.6, mIoU_ms=45.7),
)

model = upernet(vit_pyramid("small", "deit_small_patch16_224"), num_classes=150, in_channels=384)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP)

optimizer = layer_decay(lr=6e-5, rate=0.95, depth=12, weight_decay=0.01)
train.max_iter = 160_000
train.amp.enabled = True
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
