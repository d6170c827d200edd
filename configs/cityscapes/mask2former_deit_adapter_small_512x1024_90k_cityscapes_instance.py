"""Mask2Former, ViT-Adapter-S, DeiT-S, Cityscapes instance, facebookresearch/Mask2Former's recipe.

No number was published: ViT-Adapter's model on Cityscapes is semantic.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from vitadapter_d2.solver import PrefixFactor

from ..common.data.cityscapes_instance import dataloader
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
    segmentation_backbone("small", "deit_small_patch16_224"), num_classes=8
)
optimizer.params.lr_factor = L(PrefixFactor)(prefix="backbone.", factor=0.1)
train.max_iter = 90_000
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.init_checkpoint = zoo["pretrained"]
