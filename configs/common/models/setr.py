"""SETR-PUP on a plain ViT, with an auxiliary head on each of its stages."""

from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.semantic import PlainViTStages, SemanticSegmentor, SETRPUPHead

from ..normalization import IMAGENET_MEAN, IMAGENET_STD

# The published model supervises the maps after these blocks, the head's own among them.
BASE_BLOCKS = (4, 7, 9, 11)
LARGE_BLOCKS = (9, 14, 19, 23)


def _head(stage, **arguments):
    return L(SETRPUPHead)(in_feature=f"stage{stage}", norm="BN", **arguments)


def _auxiliary_head(stage):
    return _head(
        stage,
        in_channels="${...sem_seg_head.in_channels}",
        num_classes="${...sem_seg_head.num_classes}",
        num_convs=1,
        upsampling=4,
        loss_weight=0.4,
    )


def setr_pup(vit, embed_dim, num_classes, out_blocks=LARGE_BLOCKS):
    """``vit`` is a ``plain_vit`` of width ``embed_dim`` that keeps its prefix tokens."""
    return L(SemanticSegmentor)(
        backbone=L(PlainViTStages)(vit=vit, out_blocks=out_blocks),
        sem_seg_head=_head(len(out_blocks), in_channels=embed_dim, num_classes=num_classes),
        auxiliary_head=[_auxiliary_head(stage) for stage in range(1, len(out_blocks) + 1)],
        average_over_ignored=True,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
