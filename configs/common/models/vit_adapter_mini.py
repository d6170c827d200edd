"""A ViT-Adapter of 0.7 M parameters that learns on two CPU cores."""

from detectron2.config import LazyCall as L
from timm.models.vision_transformer import VisionTransformer

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)

backbone = L(ViTAdapter)(
    vit=L(plain_vit)(
        model=L(VisionTransformer)(
            img_size=128, patch_size=16, embed_dim=64, depth=4, num_heads=4, num_classes=0
        ),
    ),
    spatial_prior=L(SpatialPriorModule)(embed_dim=64, channels=32),
    interactions=L(interaction_blocks)(
        embed_dim=64, spans=[(0, 0), (1, 1), (2, 2), (3, 3)], num_heads=4
    ),
    added_stages=(0, 1, 2, 3),
)
