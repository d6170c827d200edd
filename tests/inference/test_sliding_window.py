import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitadapter_d2.inference.sliding_window import SlidingWindow, window_starts

K = 5


@pytest.fixture
def score_fn():
    """Scores that depend on where a window ends: the convolution pads there."""
    torch.manual_seed(1)
    return nn.Conv2d(3, K, 5, padding=2).requires_grad_(False)


def average_of_padded_windows(score_fn, images, crop, stride):
    """Every window padded to the image, summed, divided by the sum of padded ones."""
    height, width = images.shape[-2:]
    total = count = 0
    for row in range(-(-max(height - crop[0], 0) // stride[0]) + 1):
        for column in range(-(-max(width - crop[1], 0) // stride[1]) + 1):
            bottom = min(row * stride[0] + crop[0], height)
            right = min(column * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            scores = score_fn(images[:, :, top:bottom, left:right])
            margins = (left, width - right, top, height - bottom)
            total = total + F.pad(scores, margins)
            count = count + F.pad(torch.ones_like(scores), margins)
    return total / count


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((37, 53), (16, 20), (11, 7)),
        ((40, 33), (16, 16), (3, 16)),
        ((64, 24), (24, 24), (16, 16)),
        ((17, 16), (16, 16), (16, 16)),
        ((9, 41), (16, 16), (10, 10)),
        ((1, 1), (16, 16), (10, 10)),
        ((30, 31), (7, 9), (1, 2)),
    ],
)
def test_scores_are_the_plain_mean_of_the_windows(score_fn, size, crop, stride, batch_size):
    images = torch.randn(2, 3, *size)
    expected = average_of_padded_windows(score_fn, images, crop, stride)
    window = SlidingWindow(crop, stride, batch_size)
    torch.testing.assert_close(window(score_fn, images), expected)
    bands = [band.clone() for band in window.bands(score_fn, images)]
    torch.testing.assert_close(torch.cat(bands, dim=2), expected)


@pytest.mark.parametrize(
    ("size", "crop", "stride", "expected"),
    [
        (2048, 896, 512, [0, 512, 1024, 1152]),
        (1024, 896, 512, [0, 128]),
        (683, 512, 341, [0, 171]),
        (704, 512, 341, [0, 192]),
        (853, 512, 341, [0, 341]),
        (512, 512, 341, [0]),
        (300, 512, 341, [0]),
    ],
)
def test_last_window_is_moved_back(size, crop, stride, expected):
    assert window_starts(size, crop, stride) == expected


def test_windows_cover_every_pixel_and_stay_inside():
    for size in range(1, 60):
        for crop in (1, 7, 16):
            for stride in range(1, crop + 1):
                starts = window_starts(size, crop, stride)
                covered = {pixel for start in starts for pixel in range(start, start + crop)}
                assert set(range(size)) <= covered
                assert size <= crop or max(covered) == size - 1
                assert starts == sorted(set(starts))


def test_image_of_the_window_size_is_scored_whole(score_fn):
    images = torch.randn(1, 3, 24, 32)
    scores = SlidingWindow((24, 32), (16, 16))(score_fn, images)
    assert torch.equal(scores, score_fn(images))


def test_small_images_are_not_padded_and_windows_are_batched():
    shapes = []

    def score_fn(images):
        shapes.append(tuple(images.shape))
        return images

    SlidingWindow(16, 10, batch_size=2)(score_fn, torch.randn(2, 3, 9, 45))  # windows at 0 10 20 29
    assert shapes == [(4, 3, 9, 16), (4, 3, 9, 16)]


def test_low_precision_scores_are_summed_in_float32(score_fn):
    images = torch.randn(1, 3, 40, 40)
    expected = average_of_padded_windows(
        lambda crops: score_fn(crops).bfloat16().float(), images, (16, 16), (5, 5)
    )
    scores = SlidingWindow(16, 5)(lambda crops: score_fn(crops).bfloat16(), images)
    torch.testing.assert_close(scores, expected)


class LargestTensor(TorchDispatchMode):
    """Records the largest result of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_bands_hold_one_row_of_windows_however_high_the_image_is(score_fn):
    images = torch.randn(1, 3, 1000, 48)
    with LargestTensor() as largest:
        rows = sum(band.shape[2] for band in SlidingWindow(32, 20).bands(score_fn, images))
    assert rows == 1000
    assert largest.elements <= 32 * 48 * K  # the whole map has 1000 * 48 * K


@pytest.mark.parametrize(
    ("crop_size", "stride", "message"),
    [
        (0, 1, "crop_size must be a positive number of pixels, or two, got 0"),
        ((8, 8), (4, -1), r"stride must be a positive number of pixels, or two, got \(4, -1\)"),
        ((8, 8, 8), 4, r"crop_size must be .* got \(8, 8, 8\)"),
        (8.0, 4, "crop_size must be .* got 8.0"),
        ((8, 8), (8, 9), r"stride must be at most crop_size \(8, 8\), .*; got \(8, 9\)"),
    ],
)
def test_wrong_sizes_are_named(crop_size, stride, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(crop_size, stride)


def test_wrong_batch_size_is_named():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        SlidingWindow(8, 8, batch_size=0)
