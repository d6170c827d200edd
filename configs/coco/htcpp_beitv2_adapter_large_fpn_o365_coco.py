"""HTC++, ViT-Adapter-L, BEiTv2 and 26 epochs on Objects365, then 20,000 iterations on COCO.

Published: box AP 61.8, mask AP 53.0; averaged over sizes and flips 62.6, 54.2. The official run
keeps the rate constant and an average of the weights over time (EMA, 1e-4 of each step), which its
evaluations leave aside; which of the two the published file holds is not known.
"""

from ..common.coco_train import train
from ..common.data.coco_htc import coco_htc, htc_test
from ..common.models.htc import htc, with_norms_and_giou
from ..common.models.vit_adapter import beit_detection_backbone
from ..common.optim import layer_decay
from ..common.pretrained import BEITV2_LARGE
from ..common.schedules import steps

zoo = dict(
    pretrained=BEITV2_LARGE,
    load_from="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "htc++_beitv2_adapter_large_fpn_o365.pth",
    released="https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1/"
    "htc++_beitv2_adapter_large_fpn_o365_coco.pth",
    metrics=dict(box_AP=61.8, mask_AP=53.0, box_AP_ms=62.6, mask_AP_ms=54.2),
)

model = with_norms_and_giou(
    htc(beit_detection_backbone("large", "beitv2_large_patch16_224", drop_path_rate=0.3))
)
model.backbone.bottom_up.vit.recompute_blocks = True
model.backbone.bottom_up.interactions.recompute_attention = True
model.backbone.extra_attention.recompute_block = True
dataloader = coco_htc(short_sides=(600, 1600), long_side=2000, instaboost=False)
dataloader.train.total_batch_size = 64
test = htc_test(scale=(2000, 1000))

optimizer = layer_decay(lr=1e-4, rate=0.8, depth=24)
train.max_iter = 20_000
train.best_metric = "auto"
train.eval_period = 500
train.clip_grad_norm = 0.1
train.ema.enabled = True
train.ema.decay = 0.9999
train.ema.evaluate = False
lr_multiplier = steps(1, [], train.max_iter)
train.init_checkpoint = zoo["load_from"]
