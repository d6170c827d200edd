"""AdamW, as every published model of ViT-Adapter uses it."""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from vitadapter_d2.solver import param_groups

optimizer = L(AdamW)(
    params=L(param_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
    ),
    lr=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.999),
)
