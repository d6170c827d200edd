"""Mask2Former, ViT-Adapter-S, DeiT-S, ADE20K instance with facebookresearch/Mask2Former's recipe.

No number was published: ViT-Adapter's models on ADE20K are semantic.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from vitadapter_d2.solver import PrefixFactor

from ..common.data.ade20k_instance import dataloader
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
    segmentation_backbone("small", "deit_small_patch16_224"), num_classes=100
)
optimizer.params.lr_factor = L(PrefixFactor)(prefix="backbone.", factor=0.1)
train.max_iter = 160_000
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.init_checkpoint = zoo["pretrained"]
