"""Mask2Former, ViT-Adapter-L, AugReg, on Cityscapes panoptic.

No number was published. Data, queries and schedule are facebookresearch/Mask2Former's for its large
backbone; the learning rates are those of ViT-Adapter's panoptic model of the same size.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from ..common.data.cityscapes_panoptic import dataloader
from ..common.models.mask2former import mask2former
from ..common.models.vit_adapter import segmentation_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.train import train

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(),
)

model = mask2former(
    segmentation_backbone("large", "vit_large_patch16_384", drop_path_rate=0.3),
    num_classes=19,
    dataset_name="cityscapes_fine_panoptic_val",
    num_queries=200,
)
model.pixel_mean = model.pixel_std = HALF
model.backbone.vit.recompute_blocks = True
model.backbone.interactions.recompute_attention = True

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = 90_000
train.amp.enabled = True
train.clip_grad_norm = 0.01
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.init_checkpoint = zoo["pretrained"]
