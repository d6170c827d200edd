"""HTC++, ViT-Adapter-L, Uni-Perceiver, 3x+MS, on COCO: no metric is published."""

from ..common.coco_train import train
from ..common.data.coco_htc import coco_htc, htc_test
from ..common.data.coco_instance import iterations
from ..common.models.htc import htc
from ..common.models.vit_adapter import uniperceiver_detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import UNIPERCEIVER_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=UNIPERCEIVER_LARGE,
    released="",
    metrics=dict(),
)

model = htc(uniperceiver_detection_backbone("large"), attention_drop_path=0.4)
dataloader = coco_htc()
test = htc_test()

optimizer = layer_decay(lr=1e-4, rate=0.9, depth=24)
train.max_iter = iterations(36)
train.best_metric = "auto"
lr_multiplier = steps(36, [27, 33], train.max_iter)
train.init_checkpoint = zoo["pretrained"]
