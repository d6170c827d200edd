"""ViT-Adapter backbones in the sizes of the paper."""

import timm
from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.backbone import (
    SpatialPriorModule,
    ViTAdapter,
    interaction_blocks,
    plain_vit,
)

# Table 8 and the official configurations: depth, deformable heads and ratio, drop path, windows.
_SIZES = {
    "tiny": dict(
        embed_dim=192, depth=12, heads=6, ratio=1.0, drop_path=0.1, windows=(14, 14, None)
    ),
    "small": dict(
        embed_dim=384, depth=12, heads=6, ratio=1.0, drop_path=0.2, windows=(14, 14, None)
    ),
    "base": dict(
        embed_dim=768, depth=12, heads=12, ratio=0.5, drop_path=0.3, windows=(14, 14, None)
    ),
    "large": dict(
        embed_dim=1024, depth=24, heads=16, ratio=0.5, drop_path=0.4, windows=(14,) * 5 + (None,)
    ),
}


def spans(depth, interactions=4):
    """First and last block of each of the equal parts that a trunk is cut into."""
    length = depth // interactions
    return [(start, start + length - 1) for start in range(0, depth, length)]


def _vit_adapter(size, timm_name, windows, added_stages):
    size = _SIZES[size]
    return L(ViTAdapter)(
        vit=L(plain_vit)(
            # The released models have a LayerScale that starts at 1.
            model=L(timm.create_model)(
                model_name=timm_name,
                pretrained=False,
                num_classes=0,
                init_values=1.0,
                drop_path_rate=size["drop_path"],
            ),
            window_sizes=size["windows"] if windows else (None,),
            recompute_blocks=False,
        ),
        spatial_prior=L(SpatialPriorModule)(embed_dim=size["embed_dim"], channels=64, norm="BN"),
        interactions=L(interaction_blocks)(
            embed_dim=size["embed_dim"],
            spans=spans(size["depth"]),
            num_heads=size["heads"],
            num_points=4,
            deform_ratio=size["ratio"],
            ffn_ratio=0.25,
            drop_path_rate="${..vit.model.drop_path_rate}",
            recompute_attention=False,
        ),
        added_stages=added_stages,
        norm="BN",
    )


def detection_backbone(size, timm_name):
    """Windowed attention; the last ViT map added to all outputs."""
    return _vit_adapter(size, timm_name, windows=True, added_stages=(-1, -1, -1, -1))


def segmentation_backbone(size, timm_name):
    """Global attention; one ViT map added to each output."""
    return _vit_adapter(size, timm_name, windows=False, added_stages=(0, 1, 2, 3))
