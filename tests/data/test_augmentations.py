import colorsys

import detectron2.data.transforms as T
import numpy as np
import pytest

from vitadapter_d2.data import ChannelShuffle, PadToMultiple, PhotometricDistortion
from vitadapter_d2.data.transforms import distort

NEUTRAL = dict(
    image_format="RGB",
    brightness=0.0,
    contrast=1.0,
    saturation=1.0,
    hue=0,
    is_contrast_first=True,
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_neutral_amounts_change_nothing(image):
    for first in (True, False):
        result = distort(image, **{**NEUTRAL, "is_contrast_first": first})
        assert np.array_equal(result, image)


def test_brightness_and_contrast_are_clipped_and_rounded():
    image = np.array([[[0, 101, 250]]], np.uint8)
    assert distort(image, **{**NEUTRAL, "brightness": 20.4}).tolist() == [[[20, 121, 255]]]
    assert distort(image, **{**NEUTRAL, "contrast": 0.5}).tolist() == [[[0, 50, 125]]]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_hue_and_saturation_follow_colorsys(image, image_format):
    amounts = {**NEUTRAL, "image_format": image_format, "saturation": 0.6, "hue": 15}
    result = distort(image, **amounts)
    order = slice(None) if image_format == "RGB" else slice(None, None, -1)
    for before, after in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before[order] / 255.0))
        expected = colorsys.hsv_to_rgb((hue + 30 / 360) % 1, saturation * 0.6, value)
        np.testing.assert_allclose(after[order], 255 * np.array(expected), atol=5)


def test_hue_wraps_around():
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert distort(red, **{**NEUTRAL, "hue": -60}).tolist() == [[[0, 0, 255]]]


def test_place_of_the_contrast_step_matters(image):
    amounts = {**NEUTRAL, "contrast": 1.5, "saturation": 0.5}
    early = distort(image, **{**amounts, "is_contrast_first": True})
    late = distort(image, **{**amounts, "is_contrast_first": False})
    assert not np.array_equal(early, late)


def test_distortion_is_drawn_anew_and_repeatable(image):
    def draw(seed: int) -> list[np.ndarray]:
        np.random.seed(seed)
        augmentation = PhotometricDistortion("RGB")
        return [augmentation.get_transform(image).apply_image(image) for _ in range(4)]

    first, again, other = draw(0), draw(0), draw(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not all(np.array_equal(first[0], image) for image in first[1:])
    assert all(a.dtype == np.uint8 and a.shape == image.shape for a in first)


def test_channel_shuffle_gives_every_permutation_and_keeps_the_rest(image):
    np.random.seed(0)
    seen = set()
    for _ in range(60):
        result = ChannelShuffle().get_transform(image).apply_image(image)
        order = tuple(
            next(c for c in range(3) if np.array_equal(result[..., i], image[..., c]))
            for i in range(3)
        )
        seen.add(order)
    assert len(seen) == 6


@pytest.mark.parametrize("augmentation", [PhotometricDistortion("BGR"), ChannelShuffle()])
def test_colours_leave_boxes_and_labels_alone(image, augmentation):
    labels = np.arange(12 * 17, dtype=np.uint8).reshape(12, 17)
    boxes = np.array([[1.0, 2.0, 5.0, 6.0]])
    augmented = T.AugInput(image, boxes=boxes, sem_seg=labels)
    T.AugmentationList([augmentation])(augmented)
    assert np.array_equal(augmented.boxes, boxes)
    assert np.array_equal(augmented.sem_seg, labels)


@pytest.mark.parametrize(("divisor", "size"), [(1, (12, 17)), (8, (16, 24)), (32, (32, 32))])
def test_padding_reaches_the_next_multiple(image, divisor, size):
    transform = PadToMultiple(divisor, pad_value=7).get_transform(image)
    result = transform.apply_image(image)
    assert result.shape[:2] == size
    assert np.array_equal(result[:12, :17], image)
    assert (result[12:] == 7).all() and (result[:, 17:] == 7).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'L'"):
        PhotometricDistortion("L")
    with pytest.raises(ValueError, match="got 0"):
        PadToMultiple(0)


def test_augmentations_can_be_printed():
    assert repr(PadToMultiple(16)) == "PadToMultiple(divisor=16)"
    assert repr(PhotometricDistortion("BGR")) == "PhotometricDistortion(image_format='BGR')"
