"""Tiny dense detectors."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from vitadapter_d2.modeling.dense import ATSS, GFL, ATSSAssigner, ATSSHead, GFLHead, LinearP6P7

STRIDES = {f"p{level}": 2**level for level in range(3, 8)}


class Maps(Backbone):
    """Levels that are given, whatever the image is."""

    def __init__(self, maps):
        super().__init__()
        self.maps = dict(zip(STRIDES, maps, strict=True))

    size_divisibility = 32

    def output_shape(self):
        return {
            name: ShapeSpec(channels=self.maps[name].shape[1], stride=stride)
            for name, stride in STRIDES.items()
        }

    def forward(self, image):
        return self.maps


class Patches(Backbone):
    """One convolution for each level: patches of its stride."""

    def __init__(self, channels=16):
        super().__init__()
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_strides = {name: 2 ** int(name[3:]) for name in self._out_features}
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride) for stride in self._out_feature_strides.values()
        )

    size_divisibility = 32

    def forward(self, image):
        return {
            name: conv(image) for name, conv in zip(self._out_features, self.convs, strict=True)
        }


def fpn(channels=32):
    return FPN(
        Patches(), ["res3", "res4", "res5"], channels, top_block=LinearP6P7(channels=channels)
    )


def detector(kind, backbone=None, num_classes=6, channels=64, **options):
    """Two channels for each group of the norm: a single cell has no spread otherwise."""
    model, head = {"atss": (ATSS, ATSSHead), "gfl": (GFL, GFLHead)}[kind]
    return model(
        backbone=backbone or fpn(),
        head=head(32, num_classes, channels=channels, num_convs=2),
        assigner=ATSSAssigner(),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        **options,
    )


def item(height, width, boxes, classes):
    instances = Instances(
        (height, width),
        gt_boxes=Boxes(torch.tensor(boxes).view(-1, 4).float()),
        gt_classes=torch.tensor(classes, dtype=torch.long),
    )
    return {"image": torch.randn(3, height, width), "instances": instances}
