"""HTC++, ViT-Adapter-L, AugReg, 3x+MS, on COCO.

Published: box AP 56.6, mask AP 49.0; on test-dev 57.4, 50.0; averaged over sizes and flips 57.7,
49.9.
"""

from ..common.coco_train import train
from ..common.data.coco_htc import coco_htc, htc_test
from ..common.data.coco_instance import iterations
from ..common.models.htc import htc
from ..common.models.vit_adapter import detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import AUGREG_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "htc++_augreg_adapter_large_fpn_3x_coco.pth",
    metrics=dict(box_AP=56.6, mask_AP=49.0, box_AP_ms=57.7, mask_AP_ms=49.9),
)

model = htc(
    detection_backbone("large", "vit_large_patch16_384"), attention_drop_path=0.4, max_boxes=300
)
model.backbone.bottom_up.vit.recompute_blocks = True
model.backbone.bottom_up.interactions.recompute_attention = True
dataloader = coco_htc()
test = htc_test(ms_long_side=1600)

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
