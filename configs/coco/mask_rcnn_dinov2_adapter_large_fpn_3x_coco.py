"""Mask R-CNN, ViT-Adapter-L, DINOv2-L, 3x+MS, on COCO.

Published: box AP 55.3, mask AP 49.0. As published it is trained with another normalisation than it
is tested with.
"""

from detectron2.config import LazyCall as L

from vitadapter_d2.data.renormalize import Renormalize

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.normalization import HALF
from ..common.optim import layer_decay
from ..common.schedules import steps

zoo = dict(
    pretrained="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    released="https://huggingface.co/czczup/ViT-Adapter/resolve/main/"
    "mask_rcnn_dinov2_adapter_large_fpn_3x_coco.pth",
    metrics=dict(box_AP=55.3, mask_AP=49.0),
)

model = mask_rcnn(detection_backbone("large", "vit_large_patch14_dinov2"))
dataloader.train.mapper.augmentations.append(
    L(Renormalize)(mean=HALF, std=HALF, model_mean=model.pixel_mean, model_std=model.pixel_std)
)

optimizer = layer_decay(lr=1e-4, rate=0.65, depth=24)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
