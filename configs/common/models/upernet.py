"""UPerNet with its auxiliary head."""

from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.semantic import FCNHead, SemanticSegmentor, UPerNetHead

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def upernet(backbone, num_classes, channels=512, in_channels=None):
    """``in_channels`` of backbones that are not a ViT-Adapter: the width of their levels."""
    return L(SemanticSegmentor)(
        backbone=backbone,
        sem_seg_head=L(UPerNetHead)(
            in_channels=in_channels or backbone.spatial_prior.embed_dim,
            num_classes=num_classes,
            channels=channels,
            norm="BN",
            dropout=0.1,
        ),
        auxiliary_head=L(FCNHead)(
            in_channels="${..sem_seg_head.in_channels}",
            num_classes="${..sem_seg_head.num_classes}",
            channels=256,
            norm="${..sem_seg_head.norm}",
            dropout=0.1,
            loss_weight=0.4,
        ),
        average_over_ignored=True,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
