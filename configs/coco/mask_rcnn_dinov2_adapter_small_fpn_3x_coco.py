"""Mask R-CNN, ViT-Adapter-S, DINOv2-S, 3x+MS, on COCO.

Published: box AP 51.5, mask AP 45.6.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import layer_decay
from ..common.schedules import steps

zoo = dict(
    pretrained="https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
    released="https://huggingface.co/czczup/ViT-Adapter/resolve/main/"
    "mask_rcnn_dinov2_adapter_small_fpn_3x_coco.pth",
    metrics=dict(box_AP=51.5, mask_AP=45.6),
)

model = mask_rcnn(detection_backbone("small", "vit_small_patch14_dinov2"))

optimizer = layer_decay(lr=1e-4, rate=0.7, depth=12)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
