"""HTC++, the first ViT-Adapter-L, BEiT, 3x+MS, on COCO: one ViT map added to each output.

Published: box AP 57.9, mask AP 50.2; on test-dev 58.5, 50.8; averaged over sizes and flips 59.8,
51.7.
"""

from ..common.models.htc import htc
from ..common.models.trunks import beit_detection
from ..common.models.vit_adapter import EACH, vit_adapter
from ..common.pretrained import BEIT_LARGE
from .htcpp_beit_adapter_large_fpn_3x_coco import dataloader, lr_multiplier, optimizer, test, train

zoo = dict(
    pretrained=BEIT_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.1.0/"
    "htc++_beit_adapter_large_fpn_3x_coco_old.pth.tar",
    metrics=dict(box_AP=57.9, mask_AP=50.2, box_AP_ms=59.8, mask_AP_ms=51.7),
)

trunk = beit_detection("large", "beit_large_patch16_224", drop_path_rate=0.3)
model = htc(vit_adapter("large", trunk, EACH, injector_init=1e-6))
