import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vitadapter_d2.inference.resize_rules import (
    ClampedToCrop,
    KeepRatio,
    NativeSize,
    PaddedShortSide,
    resize_image,
)


@pytest.mark.parametrize(
    ("scale", "divisor", "size", "steps"),
    [
        ((2048, 512), 32, (512, 683), ((512, 683), (512, 704))),  # ADE20K
        ((2048, 512), 32, (2100, 2100), ((512, 512), (512, 512))),
        ((2048, 512), 32, (200, 1000), ((410, 2048), (416, 2048))),  # the long side limits
        ([512, 2048], None, (683, 512), ((683, 512),)),
        ((2048, 1024), None, (1024, 2048), ((1024, 2048),)),  # Cityscapes
        ((960, 999), 32, (960, 999), ((960, 999), (960, 1024))),  # CHASE DB1
        ((4096, 520), 32, (375, 500), ((520, 693), (544, 704))),  # Pascal Context
        ((2048, 512), 32, (1, 1), ((512, 512), (512, 512))),
        ((2048, 512), 32, (1, 9000), ((1, 2048), (32, 2048))),
    ],
)
def test_proportions_are_kept_then_rounded_up(scale, divisor, size, steps):
    assert KeepRatio(scale, divisor).steps(size) == steps


@pytest.mark.parametrize(
    ("ratio", "short"), [(640 / 896, 640), (768 / 896, 768), (800 / 896, 800), (864 / 896, 864)]
)
def test_published_ratios_of_896_give_whole_pixels(ratio, short):
    assert KeepRatio((3584, 896), 32).steps((1000, 1000), ratio)[0] == (short, short)


@pytest.mark.parametrize("size", [(512, 683), (683, 512), (75, 301), (5, 5)])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
def test_short_side_is_never_below_the_crop(size, ratio):
    ((height, width),) = ClampedToCrop((2048, 512), 512).steps(size, ratio)
    short = max(512, int(512 * ratio))
    assert min(height, width) == short
    assert max(height, width) == int(short * max(size) / min(size) + 0.5)
    assert (height > width) == (size[0] > size[1])


def test_long_side_has_no_limit():
    assert ClampedToCrop((2048, 512), 480).steps((100, 1000)) == ((512, 5120),)
    assert ClampedToCrop((4096, 520), 480).steps((375, 500), 0.5) == ((480, 640),)


def test_native_size_is_scaled_by_the_ratio_alone():
    assert NativeSize().steps((33, 70)) == ((33, 70),)
    assert NativeSize().steps((33, 70), 1.5) == ((49, 105),)
    assert NativeSize().steps((1, 1), 0.5) == ((1, 1),)


def normalize(image: Tensor) -> Tensor:
    return (image - 100.0) / 50.0


@pytest.mark.parametrize(("is_padded_raw", "value"), [(True, -2.0), (False, 0.0)])
def test_padding_is_black_or_the_mean(is_padded_raw, value):
    rule = PaddedShortSide(KeepRatio((80, 20), 4), 24, is_padded_raw)
    image = torch.randint(0, 256, (3, 20, 28), dtype=torch.uint8)
    padded = rule.network_input(image, normalize)
    assert padded.shape == (3, 24, 28)
    torch.testing.assert_close(padded[:, :20], normalize(image))
    assert (padded[:, 20:] == value).all()
    assert rule.steps((10, 13), 0.5) == KeepRatio((80, 20), 4).steps((10, 13), 0.5)


def test_large_images_are_not_padded():
    image = torch.rand(3, 30, 28)
    rule = PaddedShortSide(NativeSize(), 24)
    torch.testing.assert_close(rule.network_input(image, normalize), normalize(image))


def test_images_are_resized_twice_without_antialias():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = cv2.resize(cv2.resize(image, (30, 20)), (32, 32))
    result = resize_image(image, KeepRatio((80, 20), 32).steps((60, 90)))
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)
    # Every third pixel, those between unseen: an antialiased mean would differ.
    assert np.array_equal(resize_image(image, [(20, 30)]), image[1::3, 1::3])


def test_a_size_that_fits_is_left_alone():
    image = np.random.default_rng(0).random((5, 7, 3), np.float32)
    assert np.array_equal(resize_image(image, [(5, 7), (5, 7)]), image)
    assert resize_image(image, [(1, 1)]).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: KeepRatio((512,)), r"scale must be two positive numbers of pixels, got \(512,\)"),
        (lambda: KeepRatio(512), r"scale must be two positive numbers of pixels, got 512"),
        (lambda: ClampedToCrop((0, 512), 512), r"scale must be .* got \(0, 512\)"),
        (lambda: KeepRatio((2048, 512), 0), "divisor must be None or at least 1, got 0"),
        (lambda: ClampedToCrop((2048, 512), 0), "crop_size must be at least 1, got 0"),
        (lambda: PaddedShortSide(NativeSize(), 0), "size must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
