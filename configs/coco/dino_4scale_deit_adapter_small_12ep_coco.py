"""DINO with four scales, ViT-Adapter-S, DeiT-S, 12 epochs, on COCO.

Not a row of the paper: the recipe is that of DINO's own paper (arXiv 2203.03605) for ResNet-50.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from vitadapter_d2.solver import DecayByKey, PrefixFactor

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.dino import dino
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import adamw
from ..common.pretrained import DEIT_SMALL

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(),
)

model = dino(detection_backbone("small", "deit_small_patch16_224"))

dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations.pop()  # DINO does not crop to 1024 pixels in the end

# What is pre-trained learns slower; everything is decayed.
optimizer = adamw(
    lr=1e-4,
    weight_decay=1e-4,
    lr_factor=L(PrefixFactor)(prefix="backbone.vit.", factor=0.1),
    decay_factor=L(DecayByKey)(factors=dict()),
)
train.max_iter = iterations(12)
train.clip_grad_norm = 0.1
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[11], num_updates=12)
train.init_checkpoint = zoo["pretrained"]
