"""ViT-Adapter and the trunks it runs on."""

from vitadapter_d2.modeling.backbone import trunks as trunks
from vitadapter_d2.modeling.backbone.cross_attention import (
    CrossShaped,
    Deformable,
    DeformableAttention,
    Global,
    PaleShaped,
)
from vitadapter_d2.modeling.backbone.injected_vit import InjectedViTPyramid
from vitadapter_d2.modeling.backbone.interaction import (
    AddInjector,
    Extractor,
    Injector,
    InteractionBlock,
    interaction_blocks,
)
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, plain_vit
from vitadapter_d2.modeling.backbone.simple_fpn import PlainViTPyramid, SimpleFeaturePyramid
from vitadapter_d2.modeling.backbone.spatial_prior import SpatialPriorModule
from vitadapter_d2.modeling.backbone.trunks.uniperceiver import UniPerceiver
from vitadapter_d2.modeling.backbone.tuning import frozen, with_lora
from vitadapter_d2.modeling.backbone.vit_adapter import ViTAdapter

__all__ = [
    "AddInjector",
    "CrossShaped",
    "Deformable",
    "DeformableAttention",
    "Extractor",
    "Global",
    "InjectedViTPyramid",
    "Injector",
    "InteractionBlock",
    "PaleShaped",
    "PlainViT",
    "PlainViTPyramid",
    "SimpleFeaturePyramid",
    "SpatialPriorModule",
    "UniPerceiver",
    "ViTAdapter",
    "frozen",
    "interaction_blocks",
    "plain_vit",
    "with_lora",
]
