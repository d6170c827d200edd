"""SETR-PUP, plain ViT-B, DeiT, on ADE20K.

Published: mIoU 46.3, multi-scale 47.3. A row of the paper, which cites SETR's; trained as there,
arXiv 2012.15840, Sec. 4.1: SGD, heads ten times as fast.
"""

from detectron2.config import LazyCall as L
from torch.optim import SGD

from vitadapter_d2.solver import LrByKey, param_groups

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.setr import BASE_BLOCKS, setr_pup
from ..common.models.trunks import vit
from ..common.schedules import poly
from ..common.semantic_train import train
from ..common.testing import semantic_test

CROP = 512

zoo = dict(
    pretrained="https://dl.fbaipublicfiles.com/deit/deit_base_patch16_384-8de9b5d1.pth",
    released="",
    metrics=dict(mIoU=46.3, mIoU_ms=47.3),
)

trunk = vit("base", "deit_base_patch16_384", init_values=None, drop_path_rate=0.0, img_size=CROP)
trunk.keep_prefix_tokens = True
model = setr_pup(trunk, embed_dim=768, num_classes=150, out_blocks=BASE_BLOCKS)
dataloader = ade20k_semantic(CROP, has_masks=False)
test = semantic_test((2048, CROP), CROP)

optimizer = L(SGD)(
    params=L(param_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        lr_factor=L(LrByKey)(factors={"head": 10.0}),
    ),
    lr=1e-3,
    momentum=0.9,
    weight_decay=0.0,
)
train.max_iter = 160_000
lr_multiplier = poly(train.max_iter, power=0.9, warmup_iters=0)
train.init_checkpoint = zoo["pretrained"]
