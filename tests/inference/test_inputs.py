import warnings

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from vitadapter_d2.inference.inputs import find_inputs, read_picture


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.jpg", "sub/deep/d.mp4", ".cache/e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def places(patterns, output=None):
    found, missing = find_inputs(map(str, patterns), output)
    assert not missing
    return [file.place.as_posix() for file in found]


def test_folders_give_their_pictures_and_videos_at_any_depth(folder):
    assert places([folder]) == ["a.PNG", "b.jpg", "sub/c.jpg", "sub/deep/d.mp4"]
    found, _ = find_inputs([str(folder)])
    assert [file.path.name for file in found if file.is_video] == ["d.mp4"]


def test_what_was_drawn_into_a_folder_below_is_no_input(folder):
    assert places([folder], output=folder / "sub") == ["a.PNG", "b.jpg"]
    assert places([folder], output=folder) == places([folder])


def test_patterns_and_files_are_taken_once_in_order(folder):
    patterns = [folder / "b.jpg", folder / "**/*.jpg"]
    assert places(patterns) == ["b.jpg", "sub/c.jpg"]


def test_the_place_begins_where_a_pattern_does(folder):
    assert places([folder / "s*/deep/*.mp4"]) == ["sub/deep/d.mp4"]
    assert places([folder / "sub/deep/*"]) == ["d.mp4"]


def test_a_pattern_may_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder / "sub")
    assert places(["*/*.mp4", "../*.jpg"]) == ["deep/d.mp4", "b.jpg"]


def test_a_named_file_needs_no_suffix(folder):
    assert places([folder / "notes.txt"]) == ["notes.txt"]


def test_brackets_in_a_name_are_not_a_pattern(folder):
    (folder / "x[1].jpg").touch()
    assert places([folder / "x[1].jpg"]) == ["x[1].jpg"]


def test_what_matches_nothing_is_told(folder):
    (folder / "empty").mkdir()
    patterns = [str(folder / name) for name in ("nothing.jpg", "b.jpg", "*.bmp", "empty")]
    found, missing = find_inputs(patterns)
    assert [file.path.name for file in found] == ["b.jpg"]
    assert missing == [patterns[0], patterns[2], patterns[3]]


RAMP = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
RGB = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 77)], -1)


def _rotated(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(path, exif=exif)


def _palette_with_alpha(path):
    transparent = np.dstack([RGB, np.where(RAMP < 128, 0, 255).astype(np.uint8)])
    Image.fromarray(transparent).quantize(16).save(path)


ORDINARY = {
    "colour.png": lambda path: Image.fromarray(RGB).save(path),
    "grey.png": lambda path: Image.fromarray(RAMP).save(path),
    "grey_alpha.png": lambda path: Image.fromarray(np.dstack([RAMP, RAMP])).save(path),
    "one_bit.png": lambda path: Image.fromarray(RAMP > 100).save(path),
    "cmyk.jpg": lambda path: Image.fromarray(RGB).convert("CMYK").save(path),
    "palette.png": lambda path: Image.fromarray(RGB).quantize(16).save(path, transparency=3),
    "palette_alpha.png": _palette_with_alpha,
    "alpha.png": lambda path: Image.fromarray(np.dstack([RGB, RAMP])).save(path),
    "colour_16_bits.png": lambda path: cv2.imwrite(str(path), RGB.astype(np.uint16) * 257),
    "rotated.png": _rotated,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_pictures_are_read_as_in_training(name, tmp_path):
    ORDINARY[name](tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = read_image(str(tmp_path / name), format="BGR")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = read_picture(tmp_path / name)
    assert picture.dtype == np.uint8
    assert picture.shape == ((48, 32, 3) if name == "rotated.png" else (32, 48, 3))
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_is_not_cut_off(suffix, tmp_path):
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), RAMP.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_picture(path), np.dstack([RAMP] * 3))


def test_a_wide_integer_image_with_small_numbers_is_read(tmp_path):
    Image.fromarray(RAMP.astype(np.int32) * 257).save(tmp_path / "wide.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.tif"), np.dstack([RAMP] * 3))


@pytest.mark.parametrize("values", [RAMP / np.float32(255), RAMP.astype(np.int32) * 70000])
def test_what_has_no_range_is_refused(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "other.tif")
    with pytest.raises(ValueError, match="pixels must have 8 or 16 bits, got"):
        read_picture(tmp_path / "other.tif")
