"""Cascade Mask R-CNN as the published models have it: boxes and masks of every stage its own."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)

from vitadapter_d2.modeling.cascade import CascadeMaskROIHeads

from .mask_rcnn import mask_rcnn, proposal_matcher

IOUS = (0.5, 0.6, 0.7)
# Standard deviations of mmdetection's box targets; Detectron2's weights are their inverses.
DEVIATIONS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)


def _box_head(channels, box_dim):
    return L(FastRCNNConvFCHead)(
        input_shape=ShapeSpec(channels=channels, height=7, width=7),
        conv_dims=[channels] * 4,
        fc_dims=[box_dim],
        conv_norm="BN",
    )


def _box_predictor(box_dim, deviations, loss_weight):
    return L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=box_dim),
        test_score_thresh=0.05,
        box2box_transform=L(Box2BoxTransform)(weights=tuple(1 / std for std in deviations)),
        num_classes="${...num_classes}",
        box_reg_loss_type="giou",
        loss_weight=dict(loss_cls=loss_weight, loss_box_reg=10.0 * loss_weight),
    )


def _mask_head(channels, loss_weight):
    return L(MaskRCNNConvUpsampleHead)(
        input_shape=ShapeSpec(channels=channels, width=14, height=14),
        num_classes="${...num_classes}",
        conv_dims=[channels] * 5,
        loss_weight=loss_weight,
    )


def cascade_mask_rcnn(backbone, num_classes=80, channels=256, box_dim=1024):
    model = mask_rcnn(backbone, num_classes, channels, box_dim)
    model.proposal_generator.post_nms_topk = (2000, 1000)
    model.proposal_generator.anchor_boundary_thresh = 0
    model.proposal_generator.smooth_l1_beta = 1 / 9
    single = model.roi_heads
    model.roi_heads = L(CascadeMaskROIHeads)(
        num_classes=num_classes,
        batch_size_per_image=single.batch_size_per_image,
        positive_fraction=single.positive_fraction,
        proposal_matchers=[proposal_matcher(iou, claims=False) for iou in IOUS],
        box_in_features=single.box_in_features,
        box_pooler=single.box_pooler,
        box_heads=[_box_head(channels, box_dim) for _ in IOUS],
        box_predictors=[
            _box_predictor(box_dim, deviations, weight)
            for deviations, weight in zip(DEVIATIONS, LOSS_WEIGHTS, strict=True)
        ],
        mask_in_features=single.mask_in_features,
        mask_pooler=single.mask_pooler,
        mask_heads=[_mask_head(channels, weight) for weight in LOSS_WEIGHTS],
    )
    return model
