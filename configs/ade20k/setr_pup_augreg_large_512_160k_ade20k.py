"""SETR-PUP, plain ViT-L, AugReg, on ADE20K.

Published: mIoU 48.6, multi-scale 50.1. A row of the paper, which cites SETR's; trained as ViT-B.
"""

from ..common.data.ade20k_semantic import ade20k_semantic
from ..common.models.setr import LARGE_BLOCKS, setr_pup
from ..common.models.trunks import vit
from ..common.normalization import HALF
from ..common.pretrained import AUGREG_LARGE
from .setr_pup_deit_base_512_160k_ade20k import CROP, lr_multiplier, optimizer, test, train

zoo = dict(
    pretrained=AUGREG_LARGE,
    released="",
    metrics=dict(mIoU=48.6, mIoU_ms=50.1),
)

trunk = vit("large", "vit_large_patch16_384", init_values=None, drop_path_rate=0.0, img_size=CROP)
trunk.keep_prefix_tokens = True
model = setr_pup(trunk, embed_dim=1024, num_classes=150, out_blocks=LARGE_BLOCKS)
model.pixel_mean = model.pixel_std = HALF
dataloader = ade20k_semantic(CROP, has_masks=False, pixel_mean=HALF)
train.init_checkpoint = zoo["pretrained"]
