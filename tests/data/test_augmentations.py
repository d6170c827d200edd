import colorsys

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest

from vitadapter_d2.data import ChannelShuffle, PadToMultiple, PhotometricDistortion
from vitadapter_d2.data.transforms import distort

NEUTRAL = dict(
    image_format="RGB",
    brightness=None,
    contrast=None,
    saturation=None,
    hue=None,
    is_contrast_first=True,
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_steps_left_out_change_nothing_and_give_a_copy(image):
    for first in (True, False):
        result = distort(image, **{**NEUTRAL, "is_contrast_first": first})
        assert np.array_equal(result, image) and not np.shares_memory(result, image)


def test_brightness_and_contrast_are_clipped_and_rounded_down():
    image = np.array([[[0, 101, 250]]], np.uint8)
    assert distort(image, **{**NEUTRAL, "brightness": 20.9}).tolist() == [[[20, 121, 255]]]
    assert distort(image, **{**NEUTRAL, "brightness": -0.1}).tolist() == [[[0, 100, 249]]]
    assert distort(image, **{**NEUTRAL, "contrast": 0.5}).tolist() == [[[0, 50, 125]]]


def published(image, order, brightness, contrast, saturation, hue, is_contrast_first):
    """The distortion of the published semantic models, pixel by pixel: BGR inside."""

    def converted(pixels, factor=1.0, shift=0.0):
        return np.clip(pixels.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    bgr = np.ascontiguousarray(image[..., order])
    if brightness is not None:
        bgr = converted(bgr, shift=brightness)
    if contrast is not None and is_contrast_first:
        bgr = converted(bgr, contrast)
    if saturation is not None:
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = converted(hsv[..., 1], saturation)
        bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if hue is not None:
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
        bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if contrast is not None and not is_contrast_first:
        bgr = converted(bgr, contrast)
    return bgr[..., order]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_every_pixel_is_that_of_the_published_models(image_format):
    generator = np.random.default_rng(1)
    order = slice(None, None, -1) if image_format == "RGB" else slice(None)
    for _ in range(60):
        image = generator.integers(0, 256, (23, 31, 3), dtype=np.uint8)
        amounts = {
            "brightness": float(generator.uniform(-32, 32)),
            "contrast": float(generator.uniform(0.5, 1.5)),
            "saturation": float(generator.uniform(0.5, 1.5)),
            "hue": int(generator.integers(-18, 18)),
        }
        left_out = [key for key in amounts if generator.random() < 0.3]
        amounts |= dict.fromkeys(left_out) | {"is_contrast_first": bool(generator.random() < 0.5)}
        expected = published(image, order, **amounts)
        assert np.array_equal(distort(image, image_format=image_format, **amounts), expected)


def test_amounts_are_drawn_as_published(image):
    """A step is left out of half of the images; the upper end of the hue is never drawn."""
    np.random.seed(0)
    drawn = []
    for _ in range(1500):
        transform = PhotometricDistortion("RGB", hue_delta=3).get_transform(image)
        drawn.append(transform.op.keywords)
    for key, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
    ):
        values = [amounts[key] for amounts in drawn if amounts[key] is not None]
        assert len(values) == pytest.approx(750, abs=80)
        np.testing.assert_allclose(
            np.percentile(values, (0, 50, 100)),
            (low, (low + high) / 2, high),
            atol=0.05 * (high - low),
        )
    hues = [amounts["hue"] for amounts in drawn]
    assert set(hues) == {None, -3, -2, -1, 0, 1, 2}
    assert hues.count(None) == pytest.approx(750, abs=80)
    assert hues.count(0) == pytest.approx(125, abs=40)
    assert sum(a["is_contrast_first"] for a in drawn) == pytest.approx(750, abs=80)


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
    with pytest.raises(ValueError, match=r"hue_delta must be in \[1, 90\], got 0"):
        PhotometricDistortion(hue_delta=0)
    with pytest.raises(ValueError, match="got 0"):
        PadToMultiple(0)


def test_augmentations_can_be_printed():
    assert repr(PadToMultiple(16)) == "PadToMultiple(divisor=16)"
    assert repr(PhotometricDistortion("BGR")) == "PhotometricDistortion(image_format='BGR')"
