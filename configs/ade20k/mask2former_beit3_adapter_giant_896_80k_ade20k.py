"""Mask2Former, ViT-Adapter around BEiT-3's vision tower, on ADE20K.

Published: mIoU 62.0, multi-scale 62.8. A row of the paper without a configuration: head and
training are the BEiTv2 model's, adapter and stochastic depth are a guess. BEiT-3, arXiv 2208.10442.
"""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.mask2former import large_semantic_mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import layer_decay
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import large_crop_test

CROP = 896

zoo = dict(pretrained="", released="", metrics=dict(mIoU=62.0, mIoU_ms=62.8))

model = large_semantic_mask2former(
    segmentation_backbone("giant", "beit3_giant_patch14_224", init_values=None),
    num_classes=150,
    num_queries=200,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = ade20k_semantic(CROP, has_masks=True)
test = large_crop_test((3584, 896), ms_ratios=[800 / 896, 832 / 896, 864 / 896, 1.0])

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=40, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
