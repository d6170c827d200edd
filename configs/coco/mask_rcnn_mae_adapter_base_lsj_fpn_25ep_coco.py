"""Upgraded Mask R-CNN, ViT-Adapter-B, MAE-B, 25 epochs, on COCO.

Published: box AP 50.3, mask AP 44.7.
With large-scale jitter; without LayerScale and extra extractors.
"""

from ..common.coco_train import train
from ..common.data.coco_instance_lsj import dataloader, iterations, test
from ..common.models.mask_rcnn import upgraded_mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import MAE_BASE
from ..common.schedules import cosine

zoo = dict(
    pretrained=MAE_BASE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.4/"
    "mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco.pth.tar",
    metrics=dict(box_AP=50.3, mask_AP=44.7),
)

model = upgraded_mask_rcnn(
    detection_backbone("base", "vit_base_patch16_224", init_values=None, drop_path_rate=0.1)
)
model.backbone.bottom_up.interactions.num_extra_extractors = 0

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(25)
lr_multiplier = cosine(
    train.max_iter, warmup_iters=2000, end_value=0.01, warmup_factor=0.001, epochs=25
)
train.amp = dict(enabled=True, dtype="float16")
train.init_checkpoint = zoo["pretrained"]
