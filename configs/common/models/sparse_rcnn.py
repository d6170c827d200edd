"""Sparse R-CNN with FPN."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN
from detectron2.modeling.box_regression import Box2BoxTransform

from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.sparse_rcnn import (
    DynamicHead,
    HungarianMatcher,
    SetCriterion,
    SparseRCNN,
)

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def sparse_rcnn(backbone, num_classes=80, channels=256, num_proposals=300, **head):
    """Further options are those of ``DynamicHead``."""
    return L(SparseRCNN)(
        backbone=L(FPN)(
            bottom_up=backbone,
            in_features=["res2", "res3", "res4", "res5"],
            out_channels=channels,
        ),
        head=L(DynamicHead)(
            **{
                "box_pooler": L(PreciseROIPooler)(
                    output_size=7,
                    scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
                    sampling_ratio=2,
                    pooler_type="ROIAlignV2",
                ),
                "box2box_transform": L(Box2BoxTransform)(weights=(2.0, 2.0, 1.0, 1.0)),
                "num_classes": num_classes,
                "num_stages": 6,
                "embed_dim": channels,
                "dynamic_dim": 64,
                "num_heads": 8,
                "feedforward_dim": 2048,
                **head,
            }
        ),
        criterion=L(SetCriterion)(
            matcher=L(HungarianMatcher)(
                class_weight="${..class_weight}",
                l1_weight="${..l1_weight}",
                giou_weight="${..giou_weight}",
            ),
            class_weight=2.0,
            l1_weight=5.0,
            giou_weight=2.0,
        ),
        num_proposals=num_proposals,
        test_topk_per_image=300,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
