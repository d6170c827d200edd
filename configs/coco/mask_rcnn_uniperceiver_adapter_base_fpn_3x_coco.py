"""Mask R-CNN, ViT-Adapter-B, Uni-Perceiver, 3x+MS, on COCO.

Published: box AP 51.2, mask AP 45.3.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_ms import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import uniperceiver_detection_backbone
from ..common.optim import layer_decay
from ..common.schedules import steps

zoo = dict(
    pretrained="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "uni-perceiver-base-L12-H768-224size-torch-pretrained_converted.pth",
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "mask_rcnn_uniperceiver_adapter_base_fpn_3x_coco.pth",
    metrics=dict(box_AP=51.2, mask_AP=45.3),
)

model = mask_rcnn(uniperceiver_detection_backbone("base", drop_path_rate=0.2))

optimizer = layer_decay(lr=1e-4, rate=0.65, depth=12)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
