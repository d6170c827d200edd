import torch
import torch.nn.functional as F
from torch import nn

from vitadapter_d2.modeling.dino import InputProjection


def test_levels_are_projected_and_one_is_added():
    neck = InputProjection((4, 6, 8), 32)
    features = {
        name: torch.randn(2, channels, height, width)
        for name, channels, height, width in (
            ("res2", 2, 40, 56), ("res3", 4, 20, 28), ("res4", 6, 10, 14), ("res5", 8, 5, 7),
        )
    }  # fmt: skip
    maps = neck(features)
    assert [tuple(level.shape[1:]) for level in maps] == [
        (32, 20, 28), (32, 10, 14), (32, 5, 7), (32, 3, 4),
    ]  # fmt: skip
    norm = nn.GroupNorm(32, 32)
    projected = F.conv2d(features["res4"], neck.levels[1].weight)
    torch.testing.assert_close(maps[1], norm(projected), atol=1e-5, rtol=1e-5)
    extra = F.conv2d(features["res5"], neck.extra.weight, stride=2, padding=1)
    torch.testing.assert_close(maps[3], norm(extra), atol=1e-5, rtol=1e-5)


def test_norm_and_equal_channels_are_options():
    neck = InputProjection(4, 16, in_features=("res4", "res5"), norm="").eval()
    assert neck.extra.norm is None
    features = {"res4": torch.randn(1, 4, 6, 6), "res5": torch.randn(1, 4, 3, 3)}
    maps = neck(features)
    assert [level.shape[-1] for level in maps] == [6, 3, 2]
    torch.testing.assert_close(maps[1], F.conv2d(features["res5"], neck.levels[1].weight))
