"""UPerNet, ViT-Adapter-L, BEiT, crops of 512 pixels, on COCO-Stuff-10K.

Published: mIoU 51.0, multi-scale 51.4.
"""

from ..common.data.coco_stuff_10k_semantic import coco_stuff_10k_semantic
from ..common.models.upernet import upernet
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=BEIT_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.4/"
    "upernet_beit_adapter_large_512_80k_cocostuff10k.pth.tar",
    metrics=dict(mIoU=51.0, mIoU_ms=51.4),
)

model = upernet(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=171,
    channels=1024,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = coco_stuff_10k_semantic(CROP, has_masks=False)
test = semantic_test((2048, 512), CROP, clamp_ms=True)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
