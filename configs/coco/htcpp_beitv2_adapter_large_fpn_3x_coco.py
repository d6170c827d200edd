"""HTC++, ViT-Adapter-L, BEiTv2, 3x+MS, on COCO.

Published: box AP 58.8, mask AP 51.1; on test-dev 59.5, 51.8; averaged over sizes and flips 60.5,
52.5.
"""

from ..common.models.htc import htc
from ..common.models.vit_adapter import beit_detection_backbone
from ..common.pretrained import BEITV2_LARGE
from .htcpp_beit_adapter_large_fpn_3x_coco import dataloader, lr_multiplier, optimizer, test, train

zoo = dict(
    pretrained=BEITV2_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "htc++_beitv2_adapter_large_fpn_3x_coco.pth",
    metrics=dict(box_AP=58.8, mask_AP=51.1, box_AP_ms=60.5, mask_AP_ms=52.5),
)

model = htc(beit_detection_backbone("large", "beitv2_large_patch16_224"))

train.init_checkpoint = zoo["pretrained"]
