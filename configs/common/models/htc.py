"""HTC++ of the published models: Hybrid Task Cascade on an FPN with extra attention."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from vitadapter_d2.modeling.box_predictor import SoftNMSOutputLayers
from vitadapter_d2.modeling.htc import (
    AttentionFPN,
    ExtraAttention,
    FusedSemanticHead,
    HTCMaskHead,
    HTCROIHeads,
    HybridTaskCascade,
)
from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler

from .cascade import DEVIATIONS, IOUS, LOSS_WEIGHTS, cascade_mask_rcnn
from .mask_rcnn import LEVELS, proposal_matcher


def _box_head(channels, box_dim, num_convs):
    return L(FastRCNNConvFCHead)(
        input_shape=ShapeSpec(channels=channels, height=7, width=7),
        conv_dims=[channels] * num_convs,
        fc_dims=[box_dim],
    )


def _box_predictor(box_dim, deviations, loss_weight, max_boxes):
    return L(SoftNMSOutputLayers)(
        input_shape=ShapeSpec(channels=box_dim),
        test_score_thresh=0.001,
        test_nms_thresh=0.5,
        test_topk_per_image=max_boxes,
        box2box_transform=L(Box2BoxTransform)(weights=tuple(1 / std for std in deviations)),
        num_classes="${...num_classes}",
        cls_agnostic_bbox_reg=True,
        smooth_l1_beta=1.0,
        loss_weight=loss_weight,
    )


def _mask_head(channels, num_convs, stage, loss_weight):
    return L(HTCMaskHead)(
        input_shape=ShapeSpec(channels=channels, width=14, height=14),
        num_classes="${...num_classes}",
        conv_dims=[channels] * (num_convs + 1),
        takes_features=stage > 0,
        loss_weight=loss_weight,
    )


def htc(
    backbone,
    num_classes=80,
    num_labels=183,
    channels=256,
    box_dim=1024,
    num_convs=4,
    attention_heads=32,
    attention_drop_path=0.3,
    max_boxes=100,
):
    """``num_labels`` are the classes of the label maps, ``max_boxes`` those given at test."""
    model = cascade_mask_rcnn(backbone, num_classes, channels, box_dim)
    model._target_ = HybridTaskCascade
    model.backbone = L(AttentionFPN)(
        bottom_up=backbone,
        in_features=LEVELS,
        out_channels=channels,
        top_block=L(LastLevelMaxPool)(),
        extra_attention=L(ExtraAttention)(
            dim="${..bottom_up.spatial_prior.embed_dim}",
            num_heads=attention_heads,
            drop_path_rate=attention_drop_path,
        ),
    )
    heads = model.roi_heads
    heads._target_ = HTCROIHeads
    heads.proposal_matchers = [proposal_matcher(iou, claims=True) for iou in IOUS]
    heads.box_heads = [_box_head(channels, box_dim, num_convs) for _ in LOSS_WEIGHTS]
    heads.box_predictors = [
        _box_predictor(box_dim, deviations, weight, max_boxes)
        for deviations, weight in zip(DEVIATIONS, LOSS_WEIGHTS, strict=True)
    ]
    heads.mask_heads = [
        _mask_head(channels, num_convs, stage, weight) for stage, weight in enumerate(LOSS_WEIGHTS)
    ]
    heads.semantic_in_features = ["p2", "p3", "p4", "p5", "p6"]
    heads.semantic_head = L(FusedSemanticHead)(
        num_levels=5, num_classes=num_labels, channels=channels
    )
    heads.semantic_pooler = L(PreciseROIPooler)(
        output_size=14, scales=(1 / 8,), sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    return model


def with_norms_and_giou(model):
    """As the model pre-trained on Objects365 has it: norms in FPN and box heads, GIoU loss."""
    model.backbone.norm = "GN"
    for box_head in model.roi_heads.box_heads:
        box_head.conv_norm = "BN"
    for predictor, weight in zip(model.roi_heads.box_predictors, LOSS_WEIGHTS, strict=True):
        predictor.box_reg_loss_type = "giou"
        predictor.loss_weight = dict(loss_cls=weight, loss_box_reg=10.0 * weight)
    return model
