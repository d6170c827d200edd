"""Mask2Former, ViT-Adapter-L, BEiT, crops of 480 pixels, on Pascal Context.

Published: mIoU 67.8, multi-scale 68.2.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.pascal_context_semantic import pascal_context_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 480

zoo = dict(
    pretrained=BEIT_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.7/"
    "mask2former_beit_adapter_large_480_40k_pascal_context_59.zip",
    metrics=dict(mIoU=67.8, mIoU_ms=68.2),
)

model = large_semantic_mask2former(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=59,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = pascal_context_semantic(CROP, has_masks=True)
test = semantic_test((4096, 520), CROP, clamp_ms=True)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 40_000
train.eval_period = 4_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
