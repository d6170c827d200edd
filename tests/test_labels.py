import numpy as np
import pytest
from PIL import Image

from vitadapter_d2.labels import check_labels, read_labels


def save(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_one_channel_is_read_as_it_is(tmp_path, dtype):
    labels = np.arange(12, dtype=dtype).reshape(3, 4) * (1 if dtype == np.uint8 else 5000)
    path = save(tmp_path / "a.tif", labels)
    for name in (path, str(path)):
        assert np.array_equal(read_labels(name), labels)


def test_black_and_white_gives_zero_and_one(tmp_path):
    labels = read_labels(save(tmp_path / "a.png", np.eye(4, dtype=np.uint8) * 255, "1"))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.eye(4))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_name_file_and_first_pixel(tmp_path, mode):
    path = save(tmp_path / "drawn.png", np.full((2, 3, 3), 77, np.uint8), mode)
    with pytest.raises(ValueError, match=r"drawn\.png must have one channel.*first pixel is \[77"):
        read_labels(path)


def test_palette_images_are_labels_only_on_request(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = save(tmp_path / "drawn.png", rgb, "P")
    with pytest.raises(ValueError, match=r"drawn\.png is a palette image.*colour numbers \[\d+"):
        read_labels(path)
    with Image.open(path) as image:
        assert np.array_equal(read_labels(path, allow_palette=True), np.asarray(image))


def test_what_is_missing_or_no_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"label map .*none\.png does not exist"):
        read_labels(tmp_path / "none.png")
    path = tmp_path / "text.png"
    path.write_text("labels")
    with pytest.raises(ValueError, match=r"text\.png is no image"):
        read_labels(path)


def test_a_damaged_file_is_named(tmp_path):
    path = save(tmp_path / "half.png", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"half\.png cannot be read: .*truncated"):
        read_labels(path)


def test_fractions_are_no_classes(tmp_path):
    path = save(tmp_path / "heights.tif", np.full((2, 3), 1.5, np.float32))
    with pytest.raises(ValueError, match=r"heights\.tif must have whole numbers, got float32"):
        read_labels(path)


def test_values_out_of_range_are_named():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    check_labels(labels, 3, 255, "a")
    with pytest.raises(ValueError, match="a.png has class 2, expected one of 0 to 1, or 255"):
        check_labels(labels, 2, 255, "a.png")
    with pytest.raises(ValueError, match="has class 255"):
        check_labels(labels, 3, 65535, "a.png")
    with pytest.raises(ValueError, match="has class -1"):
        check_labels(labels.astype(np.int32) - 1, 256, 255, "a.png")
