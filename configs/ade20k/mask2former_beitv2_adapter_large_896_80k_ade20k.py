"""Mask2Former, ViT-Adapter-L, BEiTv2, crops of 896 pixels, on ADE20K.

Published: mIoU 61.2, multi-scale 61.5.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEITV2_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import large_crop_test

CROP = 896

zoo = dict(
    pretrained=BEITV2_LARGE,
    load_from="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask2former_beitv2_adapter_large_896_80k_cocostuff164k.zip",
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask2former_beitv2_adapter_large_896_80k_ade20k.zip",
    metrics=dict(mIoU=61.2, mIoU_ms=61.5),
)

model = large_semantic_mask2former(
    beit_segmentation_backbone("large", "beitv2_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=150,
    num_queries=200,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=True)
test = large_crop_test(
    (3584, 896), ms_ratios=[800 / 896, 832 / 896, 864 / 896, 1.0], is_padded_raw=False, flip=True
)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["load_from"]
