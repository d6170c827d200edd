"""Regions in low precision, against Detectron2's pooler in float32."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from vitadapter_d2.modeling.roi_pooler import PreciseROIPooler

HEIGHT, WIDTH = 800, 1344
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


@pytest.fixture
def levels():
    """Smooth maps, of values that bfloat16 knows."""
    coarse = torch.randn(2, 3, HEIGHT // 64, WIDTH // 64)
    return [
        F.interpolate(coarse, scale_factor=64 * scale, mode="bilinear").bfloat16()
        for scale in SCALES
    ]


@pytest.fixture
def boxes():
    corners = torch.rand(2, 50, 2) * torch.tensor([WIDTH - 200.0, HEIGHT - 200.0])
    sides = 10 + 180 * torch.rand(2, 50, 2)
    return [Boxes(image) for image in torch.cat((corners, corners + sides), dim=2)]


def arguments(output_size=7, sampling_ratio=0):
    return output_size, SCALES, sampling_ratio, "ROIAlignV2"


@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_bfloat16_regions_are_the_float32_ones_rounded(levels, boxes, output_size, sampling_ratio):
    chosen = arguments(output_size, sampling_ratio)
    exact = ROIPooler(*chosen)([level.float() for level in levels], boxes)
    with torch.autocast("cpu", torch.bfloat16):
        regions = PreciseROIPooler(*chosen)(levels, boxes)
    assert regions.dtype == torch.bfloat16
    assert torch.equal(regions, exact.bfloat16())


def test_detectron2s_regions_are_not(levels, boxes):
    """The reason for a class of our own: their boxes move, here by up to 4 pixels."""
    exact = ROIPooler(*arguments())([level.float() for level in levels], boxes)
    with torch.autocast("cpu", torch.bfloat16):
        moved = ROIPooler(*arguments())(levels, boxes)
    rounding = (exact.bfloat16() - exact).square().mean()
    assert (moved - exact).square().mean() > 50 * rounding


def test_float32_numbers_and_gradients_are_detectron2s(levels, boxes):
    results = []
    for kind in (ROIPooler, PreciseROIPooler):
        inputs = [level.float().requires_grad_() for level in levels]
        regions = kind(*arguments())(inputs, boxes)
        results.append((regions, *torch.autograd.grad(regions.square().sum(), inputs)))
    for theirs, ours in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_low_precision_works_without_autocast_and_without_boxes(levels, boxes):
    regions = PreciseROIPooler(*arguments())(levels, boxes)
    assert regions.dtype == torch.bfloat16
    none = [Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(0, 4))]
    assert PreciseROIPooler(*arguments())(levels, none).shape == (0, 3, 7, 7)


def test_gradients_reach_low_precision_features(levels, boxes):
    inputs = [level.requires_grad_() for level in levels]
    PreciseROIPooler(*arguments())(inputs, boxes).float().sum().backward()
    assert all(level.grad.dtype == torch.bfloat16 for level in levels)
    assert levels[0].grad.any()
