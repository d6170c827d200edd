"""Semantic FPN: Detectron2's FPN and the head of the Panoptic FPN paper."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN

from vitadapter_d2.modeling.semantic import SemanticFPNHead, SemanticSegmentor

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def semantic_fpn(backbone, num_classes, fpn_channels=256, channels=128):
    return L(SemanticSegmentor)(
        backbone=L(FPN)(
            bottom_up=backbone,
            in_features=["res2", "res3", "res4", "res5"],
            out_channels=fpn_channels,
        ),
        sem_seg_head=L(SemanticFPNHead)(
            in_channels="${..backbone.out_channels}",
            num_classes=num_classes,
            channels=channels,
            norm="BN",
            dropout=0.1,
        ),
        average_over_ignored=True,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
