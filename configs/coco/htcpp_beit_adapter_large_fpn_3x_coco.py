"""HTC++, ViT-Adapter-L, BEiT, 3x+MS, on COCO.

Published: box AP 58.4, mask AP 50.8; on test-dev 58.9, 51.3; averaged over sizes and flips 60.2,
52.2.
"""

from ..common.coco_train import train
from ..common.data.coco_htc import coco_htc, htc_test
from ..common.data.coco_instance import iterations
from ..common.models.htc import htc
from ..common.models.vit_adapter import beit_detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEIT_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=BEIT_LARGE,
    released="https://github.com/czczup/ViT-Adapter/releases/download/0.3.0/"
    "htc++_beit_adapter_large_fpn_3x_coco.pth.tar",
    metrics=dict(box_AP=58.4, mask_AP=50.8, box_AP_ms=60.2, mask_AP_ms=52.2),
)

model = htc(beit_detection_backbone("large", "beit_large_patch16_224"))
dataloader = coco_htc()
test = htc_test()

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = iterations(36)
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
