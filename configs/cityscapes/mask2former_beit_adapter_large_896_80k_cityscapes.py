"""Mask2Former, ViT-Adapter-L, BEiT, crops of 896 pixels, on Cityscapes.

Published: mIoU 84.9, multi-scale 85.8.
"""

from vitadapter_d2.inference.semantic import PUBLISHED_RATIOS
from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.cityscapes_semantic import cityscapes_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 896

zoo = dict(
    pretrained=BEIT_LARGE,
    load_from="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.3/"
    "mask2former_beit_adapter_large_896_80k_mapillary.zip",
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.2.3/"
    "mask2former_beit_adapter_large_896_80k_cityscapes.zip",
    metrics=dict(mIoU=84.9, mIoU_ms=85.8),
)

model = large_semantic_mask2former(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=19,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = cityscapes_semantic(CROP, has_masks=True)
test = semantic_test(
    (2048, 1024),
    CROP,
    stride=512,
    divisor=None,
    clamp_ms=True,
    ms_ratios=(*PUBLISHED_RATIOS, 2.0),
)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 80_000
train.eval_period = 1_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["load_from"]
