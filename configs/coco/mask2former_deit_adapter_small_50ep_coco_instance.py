"""Mask2Former, ViT-Adapter-S, DeiT-S, COCO instance with facebookresearch/Mask2Former's schedule.

No number was published: the paper's models on COCO's objects are detectors with boxes.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from vitadapter_d2.solver import PrefixFactor

from ..common.data.coco_instance_mask2former import dataloader
from ..common.models.mask2former import instance_mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import optimizer
from ..common.pretrained import DEIT_SMALL
from ..common.train import train

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(),
)

model = instance_mask2former(
    segmentation_backbone("small", "deit_small_patch16_224"), num_classes=80
)
optimizer.params.lr_factor = L(PrefixFactor)(prefix="backbone.", factor=0.1)
train.max_iter = 368_750
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(MultiStepParamScheduler)(
    values=[1.0, 0.1, 0.01], milestones=[327_778, 355_092], num_updates=train.max_iter
)
train.init_checkpoint = zoo["pretrained"]
