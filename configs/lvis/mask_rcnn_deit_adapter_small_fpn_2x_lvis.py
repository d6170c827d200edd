"""Mask R-CNN, ViT-Adapter-S, DeiT-S, 24 epochs, multi-scale, on LVIS v1.

Not a row of the paper: the recipe is that of the COCO model, with repeated rare classes.
"""

from ..common.data.lvis_instance import dataloader, iterations, test
from ..common.models.mask_rcnn import mask_rcnn
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import decay_by_key
from ..common.pretrained import DEIT_SMALL
from ..common.schedules import steps
from ..common.train import train

zoo = dict(
    pretrained=DEIT_SMALL,
    released="",
    metrics=dict(),
)

model = mask_rcnn(detection_backbone("small", "deit_small_patch16_224"), num_classes=1203)
# A detection of a rare class is worth keeping whatever its score.
model.roi_heads.box_predictor.test_score_thresh = 1e-4
model.roi_heads.box_predictor.test_topk_per_image = 300

optimizer = decay_by_key(lr=1e-4)
train.max_iter = iterations(24)
lr_multiplier = steps(24, [16, 22], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
