"""Mask2Former, ViT-Adapter-L, BEiT, crops of 128 pixels, on CHASE DB1: mDice 89.4 (published)."""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.chase_db1_semantic import chase_db1_semantic
from ..common.models.mask2former import semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 128

zoo = dict(
    pretrained=BEIT_LARGE,
    released="",
    metrics=dict(mDice=89.4),
)

model = semantic_mask2former(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=2,
    ffn=2048,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = chase_db1_semantic(CROP, has_masks=True)
test = semantic_test((960, 999), CROP)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 40_000
train.eval_period = 4_000
train.best_metric = "sem_seg/mDice"
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
