"""Mask R-CNN, ViT-Adapter-B, DINOv2-B, 3x+MS, on COCO.

Published: box AP 54.1, mask AP 47.8.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import DINOV2_BASE
from ..common.schedules import steps

zoo = dict(
    pretrained=DINOV2_BASE,
    released="https://huggingface.co/czczup/ViT-Adapter/resolve/main/"
    "mask_rcnn_dinov2_adapter_base_fpn_3x_coco.pth",
    metrics=dict(box_AP=54.1, mask_AP=47.8),
)

model = mask_rcnn(detection_backbone("base", "vit_base_patch14_dinov2"))

optimizer = layer_decay(lr=1e-4, rate=0.6, depth=12)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
