"""ViT-Adapter and the trunks it runs on."""

from vitadapter_d2.modeling.backbone import trunks as trunks
from vitadapter_d2.modeling.backbone.interaction import interaction_blocks
from vitadapter_d2.modeling.backbone.plain_vit import PlainViT, plain_vit
from vitadapter_d2.modeling.backbone.spatial_prior import SpatialPriorModule
from vitadapter_d2.modeling.backbone.vit_adapter import ViTAdapter

__all__ = ["PlainViT", "SpatialPriorModule", "ViTAdapter", "interaction_blocks", "plain_vit"]
