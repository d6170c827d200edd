"""Mask2Former, ViT-Adapter-L, BEiTv2, on COCO instance.

No number was published. Data, queries and schedule are facebookresearch/Mask2Former's for its large
backbone; the learning rates are those of ViT-Adapter's panoptic model on the same trunk.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from ..common.data.coco_instance_mask2former import dataloader
from ..common.models.mask2former import instance_mask2former
from ..common.models.vit_adapter import beit_detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEITV2_LARGE
from ..common.train import train

zoo = dict(
    pretrained=BEITV2_LARGE,
    released="",
    metrics=dict(),
)

model = instance_mask2former(
    beit_detection_backbone("large", "beitv2_large_patch16_224"), num_classes=80, num_queries=200
)
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = 737_500
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(MultiStepParamScheduler)(
    values=[1.0, 0.1, 0.01], milestones=[655_556, 710_184], num_updates=train.max_iter
)
train.init_checkpoint = zoo["pretrained"]
