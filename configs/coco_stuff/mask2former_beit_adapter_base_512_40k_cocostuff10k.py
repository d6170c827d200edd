"""Mask2Former, ViT-Adapter-B, BEiT, crops of 512 pixels, on COCO-Stuff-10K.

Published: mIoU 50.0, multi-scale 50.5.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.coco_stuff_10k_semantic import coco_stuff_10k_semantic
from ..common.models.mask2former import semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_BASE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=BEIT_BASE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.9/"
    "mask2former_beit_adapter_base_512_40k_cocostuff10k.pth.tar",
    metrics=dict(mIoU=50.0, mIoU_ms=50.5),
)

model = semantic_mask2former(
    beit_segmentation_backbone("base", "beit_base_patch16_224", crop=CROP, drop_path_rate=0.2),
    num_classes=171,
)
dataloader = coco_stuff_10k_semantic(CROP, has_masks=True)
test = semantic_test((2048, 512), CROP, clamp_ms=True)

optimizer = layer_decay(lr=3e-5, rate=0.95, depth=12, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 40_000
train.eval_period = 4_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
