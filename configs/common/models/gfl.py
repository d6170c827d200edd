"""GFL on levels 3 to 7, as mmdetection builds it."""

from vitadapter_d2.modeling.dense import GFL, GFLHead

from .atss import dense_detector


def gfl(backbone, num_classes=80, channels=256):
    return dense_detector(GFL, GFLHead, backbone, num_classes, channels)
