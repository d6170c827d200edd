"""Mask2Former, ViT-Adapter-L, AugReg, on ADE20K.

Published: mIoU 56.8, multi-scale 57.7. A row of the paper without a configuration:
head and training are the BEiT model's. It prints 438 M parameters, which no width of the head
in steps of 256 gives: 1024 as here has 566 M, 256 has 348 M.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 640

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(mIoU=56.8, mIoU_ms=57.7),
)

model = large_semantic_mask2former(
    segmentation_backbone("large", "vit_large_patch16_384", drop_path_rate=0.3), num_classes=150
)
model.pixel_mean = model.pixel_std = HALF
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=True, pixel_mean=HALF)
test = semantic_test((2048, CROP), CROP, clamp_ms=True)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 160_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
