"""DINO with four scales, as IDEA-Research/DINO releases it."""

from detectron2.config import LazyCall as L

from vitadapter_d2.modeling.dino import (
    DINO,
    ContrastiveDenoising,
    DeformableDecoder,
    DeformableEncoder,
    HungarianMatcher,
    InputProjection,
    QuerySelection,
    SetCriterion,
)

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def dino(backbone, num_classes=80, num_queries=900):
    """The backbone's res2 is not used."""
    backbone.out_features = ["res3", "res4", "res5"]
    return L(DINO)(
        backbone=backbone,
        neck=L(InputProjection)(
            in_channels=backbone.spatial_prior.embed_dim, embed_dim=256, norm="GN"
        ),
        encoder=L(DeformableEncoder)(
            embed_dim="${..neck.embed_dim}",
            num_levels=4,
            num_heads=8,
            num_points=4,
            feedforward_dim=2048,
            num_layers=6,
        ),
        query_selection=L(QuerySelection)(
            num_classes="${..criterion.num_classes}",
            embed_dim="${..neck.embed_dim}",
            num_queries=num_queries,
        ),
        decoder=L(DeformableDecoder)(
            num_classes="${..criterion.num_classes}",
            embed_dim="${..neck.embed_dim}",
            num_levels="${..encoder.num_levels}",
            num_heads="${..encoder.num_heads}",
            num_points="${..encoder.num_points}",
            feedforward_dim="${..encoder.feedforward_dim}",
            num_layers=6,
        ),
        denoising=L(ContrastiveDenoising)(
            num_classes="${..criterion.num_classes}",
            embed_dim="${..neck.embed_dim}",
            num_queries=100,
            label_noise=0.5,
            box_noise=1.0,
        ),
        criterion=L(SetCriterion)(
            num_classes=num_classes,
            matcher=L(HungarianMatcher)(class_weight=2.0, l1_weight=5.0, giou_weight=2.0),
            class_weight=1.0,
            l1_weight=5.0,
            giou_weight=2.0,
        ),
        test_topk_per_image=300,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
