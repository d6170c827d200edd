"""A tiny DINO on a backbone that mixes nothing between cells, and its inputs."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

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
from vitadapter_d2.modeling.dino.structures import BoxTargets, PaddedLevels

C, K, Q, LAYERS = 32, 4, 12, 3
STRIDES = (8, 16, 32, 64)


class LocalBackbone(Backbone):
    """Means of the pixels of a cell, projected; zero where the image is padded."""

    def __init__(self):
        super().__init__()
        self.projections = nn.ModuleDict(
            {name: nn.Conv2d(3, 16, 1, bias=False) for name in ("res3", "res4", "res5")}
        )

    @property
    def size_divisibility(self):
        return 32

    def output_shape(self):
        strides = zip(self.projections, STRIDES, strict=False)
        return {name: ShapeSpec(channels=16, stride=stride) for name, stride in strides}

    def forward(self, images):
        return {
            name: projection(nn.functional.avg_pool2d(images, stride))
            for (name, projection), stride in zip(self.projections.items(), STRIDES, strict=False)
        }


def make_decoder(**options):
    sizes = {"num_heads": 4, "num_points": 2, "feedforward_dim": 48, "num_layers": LAYERS}
    return DeformableDecoder(K, C, **(sizes | options))


def make_encoder(num_layers=2):
    return DeformableEncoder(C, 4, 4, 2, 48, num_layers)


def make_criterion():
    return SetCriterion(num_classes=K, matcher=HungarianMatcher())


def make_model(norm="GN", **options):
    model = DINO(
        backbone=LocalBackbone(),
        neck=InputProjection(16, C, norm=norm),
        encoder=make_encoder(),
        query_selection=QuerySelection(K, C, Q),
        decoder=make_decoder(),
        denoising=ContrastiveDenoising(K, C, num_queries=8),
        criterion=make_criterion(),
        **options,
    )
    return model


def disturb(module):
    """What starts at zero is no longer zero, so that it is seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def make_boxes(*shape):
    """Random cxcywh well inside of the image."""
    return torch.cat((torch.rand(*shape, 2) * 0.4 + 0.3, torch.rand(*shape, 2) * 0.3 + 0.1), -1)


def make_targets(*counts):
    labels = torch.randint(0, K, (sum(counts),))
    return BoxTargets(labels, make_boxes(sum(counts)), counts)


def make_levels(image_sizes, padded):
    shapes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in STRIDES]
    return PaddedLevels.of(shapes, STRIDES, image_sizes)


def make_input(height, width, count, /, **extra):
    instances = Instances((height, width))
    if count:
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.5
        size = torch.rand(count, 2) * torch.tensor([width, height]) * 0.4 + 2
        instances.gt_boxes = Boxes(torch.cat((corner, corner + size), dim=1))
        instances.gt_classes = torch.randint(0, K, (count,))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances} | extra
