"""Mask2Former, ViT-Adapter-B, DINOv2-B, ADE20K panoptic with facebookresearch/Mask2Former's recipe.

No number was published: ViT-Adapter's models on ADE20K are semantic.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from vitadapter_d2.solver import PrefixFactor

from ..common.data.ade20k_panoptic import dataloader
from ..common.models.mask2former import mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import optimizer
from ..common.pretrained import DINOV2_BASE
from ..common.train import train

zoo = dict(
    pretrained=DINOV2_BASE,
    released="",
    metrics=dict(),
)

model = mask2former(
    segmentation_backbone("base", "vit_base_patch14_dinov2"),
    num_classes=150,
    dataset_name="ade20k_panoptic_val",
)
optimizer.params.lr_factor = L(PrefixFactor)(prefix="backbone.", factor=0.1)
train.max_iter = 160_000
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.init_checkpoint = zoo["pretrained"]
