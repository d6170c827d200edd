"""AdamW, as every published model of ViT-Adapter uses it."""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from vitadapter_d2.solver import DecayByKey, ExemptVectors, LayerDecay, LrByKey, param_groups


def adamw(lr, weight_decay, **rules):
    """``rules`` are ``lr_factor`` and ``decay_factor`` of ``param_groups``."""
    return L(AdamW)(
        params=L(param_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}", **rules),
        lr=lr,
        weight_decay=weight_decay,
        betas=(0.9, 0.999),
    )


def layer_decay(lr, rate, depth, weight_decay=0.05, first_layer=()):
    """The official rule of the configurations whose learning rate falls with depth."""
    return adamw(
        lr,
        weight_decay,
        lr_factor=L(LayerDecay)(rate=rate, depth=depth, first_layer=first_layer),
        decay_factor=L(ExemptVectors)(),
    )


def decay_by_key(lr, weight_decay=0.05, **lr_by_key):
    """The official rule of the others; ``lr_by_key``: part of a name -> learning-rate factor."""
    factors = {"norm": 1.0, "bias": 1.0, "level_embed": 1.0, "pos_embed": 1.0, **lr_by_key}
    rules = {"lr_factor": L(LrByKey)(factors=factors)} if lr_by_key else {}
    return adamw(lr, weight_decay, decay_factor=L(DecayByKey)(), **rules)


optimizer = adamw(lr=1e-4, weight_decay=0.05)
