"""ViT-Adapter backbones in the sizes of the paper."""

from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.backbone import SpatialPriorModule, ViTAdapter, interaction_blocks

from .trunks import SIZES, beit_detection, beit_segmentation, uniperceiver, vit

# Table 8 and the official configurations: heads of the deformable attention, width of its values.
_ATTENTION = {
    "tiny": dict(num_heads=6, deform_ratio=1.0),
    "small": dict(num_heads=6, deform_ratio=1.0),
    "base": dict(num_heads=12, deform_ratio=0.5),
    "large": dict(num_heads=16, deform_ratio=0.5),
    "giant": dict(num_heads=16, deform_ratio=0.5),
}
# Where the ViT's maps go: the last one to all outputs, or one to each.
LAST = (-1, -1, -1, -1)
EACH = (0, 1, 2, 3)


def spans(depth, interactions=4):
    """First and last block of each of the equal parts that a trunk is cut into."""
    length = depth // interactions
    return [(start, start + length - 1) for start in range(0, depth, length)]


def vit_adapter(size, trunk, added_stages, **interactions):
    """The adapter around ``trunk``; further options are those of ``interaction_blocks``."""
    return L(ViTAdapter)(
        vit=trunk,
        spatial_prior=L(SpatialPriorModule)(
            embed_dim=SIZES[size]["embed_dim"], channels=64, norm="BN"
        ),
        interactions=L(interaction_blocks)(
            **{
                "embed_dim": "${..spatial_prior.embed_dim}",
                "spans": spans(SIZES[size]["depth"]),
                "num_points": 4,
                "ffn_ratio": 0.25,
                "drop_path_rate": "${..vit.model.drop_path_rate}",
                "recompute_attention": False,
                **_ATTENTION[size],
                **interactions,
            }
        ),
        added_stages=added_stages,
        norm="BN",
    )


def detection_backbone(size, timm_name, **options):
    """ViT with windowed attention; the last ViT map added to all outputs."""
    return vit_adapter(size, vit(size, timm_name, windowed=True, **options), LAST)


def segmentation_backbone(size, timm_name, **options):
    """ViT with global attention; one ViT map added to each output."""
    return vit_adapter(size, vit(size, timm_name, **options), EACH)


def light_segmentation_backbone(size, timm_name):
    """One interaction over all blocks, without feed-forward, extra extractors and ViT maps."""
    return vit_adapter(
        size,
        vit(size, timm_name),
        None,
        spans=spans(SIZES[size]["depth"], 1),
        ffn_ratio=None,
        num_extra_extractors=0,
    )


def beit_segmentation_backbone(size, timm_name, crop, **options):
    trunk = beit_segmentation(size, timm_name, crop, **options)
    return vit_adapter(size, trunk, EACH, injector_init=1e-6)


def beit_detection_backbone(size, timm_name, **options):
    return vit_adapter(size, beit_detection(size, timm_name, **options), LAST, injector_init=1e-6)


def uniperceiver_segmentation_backbone(size, **options):
    return vit_adapter(size, uniperceiver(size, **options), EACH, norm_eps=1e-5)


def uniperceiver_detection_backbone(size, **options):
    return vit_adapter(size, uniperceiver(size, windowed=True, **options), LAST, norm_eps=1e-5)
