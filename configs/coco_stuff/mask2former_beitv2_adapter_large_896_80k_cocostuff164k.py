"""Mask2Former, ViT-Adapter-L, BEiTv2, crops of 896 pixels, on COCO-Stuff-164K.

Published: mIoU 52.3.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.coco_stuff_164k_semantic import coco_stuff_164k_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEITV2_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 896

zoo = dict(
    pretrained=BEITV2_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask2former_beitv2_adapter_large_896_80k_cocostuff164k.zip",
    metrics=dict(mIoU=52.3),
)

model = large_semantic_mask2former(
    beit_segmentation_backbone("large", "beitv2_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=171,
    num_queries=200,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = coco_stuff_164k_semantic(CROP, has_masks=True)
test = semantic_test((3584, 896), CROP, stride=512)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
