from fractions import Fraction

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitadapter_d2.data import PadShortSide, ResizeToMultiple, ResizeToScale
from vitadapter_d2.data.transforms import OpenCVResizeTransform, scaled_size


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(11, 50), (7, 9), (48, 72), (24, 36)])
def test_images_are_interpolated_between_four_pixels_even_when_they_shrink(image, size):
    result = OpenCVResizeTransform(24, 36, *size).apply_image(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, size, mode="bilinear", align_corners=False)
    assert result.shape == (*size, 3) and result.dtype == np.uint8
    np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1)
    if size < (24, 36):  # where Detectron2's differs
        theirs = T.ResizeTransform(24, 36, *size).apply_image(image)
        assert np.abs(theirs.astype(int) - result).max() > 20


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_label_maps_keep_their_values(dtype):
    labels = np.random.default_rng(0).choice([0, 3, 254, 255], (24, 36)).astype(dtype)
    for size in ((11, 50), (48, 72)):
        result = OpenCVResizeTransform(24, 36, *size).apply_segmentation(labels)
        assert result.shape == size and result.dtype == dtype
        assert set(np.unique(result)) == {0, 3, 254, 255}
    doubled = OpenCVResizeTransform(24, 36, 48, 72).apply_segmentation(labels)
    assert np.array_equal(doubled, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_points_and_boxes_move_with_the_image(image):
    transform = OpenCVResizeTransform(24, 36, 48, 18)
    assert transform.apply_coords(np.array([[36.0, 24.0], [1.0, 1.0]])).tolist() == [
        [18, 48],
        [0.5, 2],
    ]
    assert transform.inverse().apply_image(transform.apply_image(image)).shape == image.shape


# Height, width, scale, and the size that mmcv gives.
SIZES = [
    ((512, 683), (2048, 512), (512, 683)),
    ((1024, 2048), (2048, 1024), (1024, 2048)),
    ((300, 300), (2048, 640), (640, 640)),
    ((100, 1000), (2048, 512), (205, 2048)),
    ((375, 500), (520, 520), (390, 520)),
    ((960, 999), (999, 960), (960, 999)),
    ((960, 999), (960, 999), (960, 999)),
    ((1, 5000), (512, 512), (1, 512)),
]


@pytest.mark.parametrize(("size", "scale", "expected"), SIZES)
def test_sizes_keep_the_shape_within_the_scale(size, scale, expected):
    assert scaled_size(*size, scale) == expected
    assert scaled_size(*size[::-1], scale) == expected[::-1]
    factor = min(Fraction(max(scale), max(size)), Fraction(min(scale), min(size)))
    exact = [float(side * factor) for side in size]
    assert np.abs(np.array(expected) - exact).max() <= 0.5 or 1 in expected


def test_ratios_are_uniform_and_limits_rounded_down(image):
    np.random.seed(0)
    augmentation = ResizeToScale((205, 51), (0.5, 2.0))
    heights = [augmentation.get_transform(image).new_height for _ in range(2000)]
    assert set(heights) == set(range(25, 102))
    low, high = np.percentile(heights, (25, 75))
    assert low == pytest.approx(25.5 + 0.25 * 76.5, abs=3)
    assert high == pytest.approx(25.5 + 0.75 * 76.5, abs=3)


def test_a_test_resize_is_fixed_and_rounded_up_to_the_multiple(image):
    augmented = T.AugInput(image, sem_seg=image[..., 0])
    transforms = T.AugmentationList([ResizeToScale((999, 50)), ResizeToMultiple(32)])(augmented)
    assert [t.new_height for t in transforms.transforms] == [50, 64]
    assert [t.new_width for t in transforms.transforms] == [75, 96]
    assert augmented.image.shape == (64, 96, 3) and augmented.sem_seg.shape == (64, 96)
    twice = ResizeToMultiple(32).get_transform(augmented.image)
    assert np.array_equal(twice.apply_image(augmented.image), augmented.image)


def test_padding_has_a_colour_per_channel_and_is_ignored(image):
    mean = (123.675, 116.28, 103.53)
    augmented = T.AugInput(image, sem_seg=image[..., 0])
    T.AugmentationList([PadShortSide(30, mean)])(augmented)
    assert augmented.image.shape == (30, 36, 3) and augmented.image.dtype == np.uint8
    assert np.array_equal(augmented.image[:24], image)
    assert (augmented.image[24:] == (124, 116, 104)).all()
    assert (augmented.sem_seg[24:] == 255).all()
    assert np.array_equal(augmented.sem_seg[:24], image[..., 0])
    exact = PadShortSide(40, mean).get_transform(image).apply_image(image.astype(np.float32))
    assert exact.shape == (40, 40, 3)
    np.testing.assert_allclose(exact[24:], np.broadcast_to(mean, (16, 40, 3)), rtol=1e-6)
    zeros = PadShortSide(40).get_transform(image).apply_image(image)
    assert not zeros[24:].any() and not zeros[:, 36:].any()
    transform = PadShortSide(5).get_transform(image)
    assert np.array_equal(transform.apply_image(image), image)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"got \(0, 5\)"):
        ResizeToScale((0, 5))
    for ratios in ((0.0, 1.0), (2.0, 1.0), (1.0,)):
        with pytest.raises(ValueError, match="0 < low <= high, got"):
            ResizeToScale((5, 5), ratios)
    with pytest.raises(ValueError, match="got 0"):
        ResizeToMultiple(0)
    with pytest.raises(ValueError, match="got -1"):
        PadShortSide(-1)


def test_augmentations_can_be_printed():
    assert repr(ResizeToMultiple(16)) == "ResizeToMultiple(divisor=16)"
    assert repr(ResizeToScale([8, 4])) == "ResizeToScale(scale=(8, 4))"
    assert repr(PadShortSide(8, 1.0)) == "PadShortSide(size=8, pad_value=1.0)"
