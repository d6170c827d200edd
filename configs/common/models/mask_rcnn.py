"""Mask R-CNN of Detectron2's parts, assigned and pooled as mmdetection does."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from vitadapter_d2.modeling.box_predictor import SoftNMSOutputLayers
from vitadapter_d2.modeling.matcher import MaxIoUMatcher
from vitadapter_d2.modeling.necks import ChannelMapper
from vitadapter_d2.modeling.padded_rcnn import PaddedRCNN
from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler
from vitadapter_d2.modeling.rpn import ValidAnchorRPN

from ..normalization import IMAGENET_MEAN, IMAGENET_STD

LEVELS = ["res2", "res3", "res4", "res5"]


def _pooler(size):
    return L(PreciseROIPooler)(
        output_size=size,
        scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def proposal_matcher(iou, claims):
    """Objects from this overlap on; with ``claims`` also its best proposal belongs to an object."""
    return L(MaxIoUMatcher)(
        thresholds=[iou],
        labels=[0, 1],
        min_low_quality_iou=iou if claims else None,
        objects_are_last=True,
    )


def mask_rcnn(backbone, num_classes=80, channels=256, box_dim=1024):
    return L(GeneralizedRCNN)(
        backbone=L(FPN)(
            bottom_up=backbone,
            in_features=LEVELS,
            out_channels=channels,
            top_block=L(LastLevelMaxPool)(),
        ),
        proposal_generator=L(ValidAnchorRPN)(
            in_features=["p2", "p3", "p4", "p5", "p6"],
            head=L(StandardRPNHead)(in_channels=channels, num_anchors=3),
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[32], [64], [128], [256], [512]],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            anchor_matcher=L(MaxIoUMatcher)(
                thresholds=[0.3, 0.7], labels=[0, -1, 1], min_low_quality_iou=0.3
            ),
            box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_topk=(2000, 1000),
            post_nms_topk=(1000, 1000),
            nms_thresh=0.7,
        ),
        roi_heads=L(StandardROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=proposal_matcher(0.5, claims=True),
            box_in_features=["p2", "p3", "p4", "p5"],
            box_pooler=_pooler(7),
            box_head=L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=channels, height=7, width=7),
                conv_dims=[],
                fc_dims=[box_dim, box_dim],
            ),
            box_predictor=L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=box_dim),
                test_score_thresh=0.05,
                box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
                num_classes="${..num_classes}",
            ),
            mask_in_features=["p2", "p3", "p4", "p5"],
            mask_pooler=_pooler(14),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=ShapeSpec(channels=channels, width=14, height=14),
                num_classes="${..num_classes}",
                conv_dims=[channels] * 5,
            ),
        ),
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
        input_format="RGB",
    )


def mask_rcnn_without_fpn(backbone, channels=256):
    model = mask_rcnn(backbone, channels=channels)
    model.backbone = L(ChannelMapper)(bottom_up=backbone, in_features=LEVELS, out_channels=channels)
    return model


def upgraded_mask_rcnn(backbone, channels=256, box_dim=1024):
    """BatchNorm in neck and heads, a deeper RPN, convolutions in the box head; trained on squares.

    Reference: Li et al., Benchmarking Detection Transfer Learning with Vision Transformers,
    arXiv 2111.11429, Sec. 3.
    """
    model = mask_rcnn(backbone, channels=channels, box_dim=box_dim)
    model._target_ = PaddedRCNN
    model.train_side = 1024
    model.proposal_generator.pad_multiple = None
    model.backbone.norm = "BN"
    model.proposal_generator.head.conv_dims = [-1, -1]
    model.roi_heads.box_head.conv_dims = [channels] * 4
    model.roi_heads.box_head.fc_dims = [box_dim]
    model.roi_heads.box_head.conv_norm = "BN"
    model.roi_heads.mask_head.conv_norm = "BN"
    return model


def with_soft_nms(model, iou_threshold=0.5, score_threshold=0.001):
    """Of any model with ROI heads: scores of boxes that overlap a better one fall."""
    heads = model.roi_heads
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor._target_ = SoftNMSOutputLayers
        predictor.test_nms_thresh = iou_threshold
        predictor.test_score_thresh = score_threshold
    return model
