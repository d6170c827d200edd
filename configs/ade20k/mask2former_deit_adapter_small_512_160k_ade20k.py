"""Mask2Former, ViT-Adapter-S, DeiT-S, on ADE20K with facebookresearch/Mask2Former's schedule.

Not a row of the paper: its Mask2Former models on ADE20K are BEiT-L and BEiTv2-L.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from vitadapter_d2.solver import PrefixFactor

from ..common.data.ade20k_mask2former import dataloader
from ..common.models.mask2former import mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.optim import optimizer
from ..common.pretrained import DEIT_SMALL
from ..common.train import train

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(),
)

model = mask2former(
    segmentation_backbone("small", "deit_small_patch16_224"),
    num_classes=150,
    dataset_name="ade20k_sem_seg_val",
)
optimizer.params.lr_factor = L(PrefixFactor)(prefix="backbone.", factor=0.1)
model.panoptic_on = False
model.instance_on = False
train.max_iter = 160_000
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.init_checkpoint = zoo["pretrained"]
