"""ATSS on levels 3 to 7, as mmdetection builds it."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN

from vitadapter_d2.modeling.dense import ATSS, ATSSAssigner, ATSSHead, LinearP6P7

from ..normalization import IMAGENET_MEAN, IMAGENET_STD


def dense_detector(detector, head, backbone, num_classes, channels):
    """What ATSS and GFL share. The backbone's res2 is not used."""
    backbone.out_features = ["res3", "res4", "res5"]
    return L(detector)(
        backbone=L(FPN)(
            bottom_up=backbone,
            in_features=backbone.out_features,
            out_channels=channels,
            top_block=L(LinearP6P7)(channels=channels),
        ),
        head=L(head)(in_channels=channels, num_classes=num_classes, channels=channels),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        assigner=L(ATSSAssigner)(topk=9),
        test_score_thresh=0.05,
        test_nms_thresh=0.6,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )


def atss(backbone, num_classes=80, channels=256):
    return dense_detector(ATSS, ATSSHead, backbone, num_classes, channels)
