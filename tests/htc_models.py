"""A Hybrid Task Cascade of a few thousand parameters, and images for it."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from detectron2.structures import BitMasks, Boxes, Instances

from vitadapter_d2.modeling.box_predictor import SoftNMSOutputLayers
from vitadapter_d2.modeling.htc import (
    AttentionFPN,
    ExtraAttention,
    FusedSemanticHead,
    HTCMaskHead,
    HTCROIHeads,
    HybridTaskCascade,
)
from vitadapter_d2.modeling.matcher import MaxIoUMatcher
from vitadapter_d2.modeling.rpn import ValidAnchorRPN

K, LABELS, CHANNELS = 3, 5, 16
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)
IOUS = (0.5, 0.6, 0.7)


def make_backbone():
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride_per_block=[stride], in_channels=before, out_channels=after
        )
        for stride, before, after in ((1, 4, 8), (2, 8, 12), (2, 12, 16), (2, 16, 20))
    ]
    names = ["res2", "res3", "res4", "res5"]
    return AttentionFPN(
        bottom_up=ResNet(BasicStem(out_channels=4), stages, out_features=names),
        in_features=names,
        out_channels=CHANNELS,
        top_block=LastLevelMaxPool(),
        extra_attention=ExtraAttention(20, num_heads=4),
    )


def make_roi_heads(test_topk_per_image=20):
    def pooler(size, scales=SCALES):
        return ROIPooler(size, scales, sampling_ratio=0, pooler_type="ROIAlignV2")

    shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
    return HTCROIHeads(
        num_classes=K,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matchers=[MaxIoUMatcher([t], [0, 1], t, objects_are_last=True) for t in IOUS],
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=pooler(7),
        box_heads=[FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[32]) for _ in STDS],
        box_predictors=[
            SoftNMSOutputLayers(
                ShapeSpec(channels=32),
                box2box_transform=Box2BoxTransform(tuple(1 / std for std in stds)),
                num_classes=K,
                test_score_thresh=0.001,
                test_topk_per_image=test_topk_per_image,
                cls_agnostic_bbox_reg=True,
                smooth_l1_beta=1.0,
                loss_weight=weight,
            )
            for stds, weight in zip(STDS, WEIGHTS, strict=True)
        ],
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=pooler(14),
        mask_heads=[
            HTCMaskHead(
                ShapeSpec(channels=CHANNELS, height=14, width=14),
                num_classes=K,
                conv_dims=[CHANNELS] * 2,
                takes_features=stage > 0,
                loss_weight=weight,
            )
            for stage, weight in enumerate(WEIGHTS)
        ],
        semantic_in_features=["p2", "p3", "p4", "p5", "p6"],
        semantic_head=FusedSemanticHead(num_classes=LABELS, channels=CHANNELS, num_convs=1),
        semantic_pooler=pooler(14, (1 / 8,)),
    )


def make_model(**options):
    return HybridTaskCascade(
        backbone=make_backbone(),
        proposal_generator=ValidAnchorRPN(
            in_features=["p2", "p3", "p4", "p5", "p6"],
            head=StandardRPNHead(in_channels=CHANNELS, num_anchors=1),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[[8], [16], [32], [48], [64]],
                aspect_ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            anchor_matcher=MaxIoUMatcher([0.3, 0.7], [0, -1, 1], min_low_quality_iou=0.3),
            box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=32,
            positive_fraction=0.5,
            pre_nms_topk=(50, 30),
            post_nms_topk=(40, 20),
        ),
        roi_heads=make_roi_heads(**options),
        pixel_mean=(120.0, 120.0, 120.0),
        pixel_std=(60.0, 60.0, 60.0),
    )


def make_input(height, width, boxes=(), /, **extra):
    """An image with filled boxes (x0, y0, x1, y1) as objects; class and label are their places."""
    image = torch.randint(60, 120, (3, height, width), dtype=torch.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % K
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    labels = torch.full((height, width), LABELS - 1)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
        image[:, y0:y1, x0:x1] = 150 + 30 * i
        labels[y0:y1, x0:x1] = i
    if boxes:  # as Detectron2's mapper, which gives an image without objects no masks
        instances.gt_masks = BitMasks(masks)
    return {"image": image, "instances": instances, "sem_seg": labels} | extra
