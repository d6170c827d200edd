"""Mask2Former, ViT-Adapter-L, BEiTv2, on COCO panoptic.

Published: PQ 58.4, box AP 52.9, mask AP 48.9. Like the official run it keeps a moving average of
the weights (1e-4 of each step) and evaluates the weights themselves.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.data.coco_instance_ms import SHORT_SIDES, crop, resize
from ..common.data.coco_panoptic import dataloader
from ..common.models.mask2former import mask2former
from ..common.models.vit_adapter import beit_detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEITV2_LARGE
from ..common.schedules import steps
from ..common.train import train

zoo = dict(
    pretrained=BEITV2_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/panoptic/"
    "mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic.pth",
    metrics=dict(PQ=58.4, box_AP=52.9, mask_AP=48.9),
)

model = mask2former(
    beit_detection_backbone("large", "beitv2_large_patch16_224"),
    num_classes=133,
    dataset_name="coco_2017_val_panoptic_with_sem_seg",
)
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomApply)(
        tfm_or_aug=L(T.AugmentationList)(augs=[resize([400, 500, 600]), crop(384, 600)]), prob=0.5
    ),
    resize(SHORT_SIDES),
]
dataloader.test.mapper.augmentations = [resize(800)]

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = 265_500
train.clip_grad_norm = 0.01
train.ema.enabled = True
train.ema.decay = 0.9999
train.ema.evaluate = False
lr_multiplier = steps(
    train.max_iter, [191_750, 236_000], train.max_iter, warmup_iters=10, warmup_factor=1.0
)
train.init_checkpoint = zoo["pretrained"]
