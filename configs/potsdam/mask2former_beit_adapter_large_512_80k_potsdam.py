"""Mask2Former, ViT-Adapter-L, BEiT, crops of 512 pixels, on Potsdam: mIoU 80.0 (published)."""

from vitadapter_d2.solver import MASK2FORMER_FIRST_LAYER

from ..common.data.potsdam_semantic import potsdam_semantic
from ..common.models.mask2former import semantic_mask2former
from ..common.models.vit_adapter import beit_segmentation_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained=BEIT_LARGE,
    released="",
    metrics=dict(mIoU=80.0),
)

model = semantic_mask2former(
    beit_segmentation_backbone("large", "beit_large_patch16_224", crop=CROP, drop_path_rate=0.3),
    num_classes=6,
    ffn=2048,
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True
dataloader = potsdam_semantic(CROP, has_masks=True, total_batch_size=8)
test = semantic_test((2048, 512), CROP)

optimizer = layer_decay(lr=2e-5, rate=0.9, depth=24, first_layer=MASK2FORMER_FIRST_LAYER)
train.max_iter = 80_000
train.eval_period = 8_000
lr_multiplier = poly(train.max_iter)
train.init_checkpoint = zoo["pretrained"]
