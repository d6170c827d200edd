import numpy as np
import pytest
import torch
from detectron2.data import Metadata

from vitadapter_d2.inference.painting import InstanceColors, Painting, stuff_color

PLAIN = Metadata(name="plain")
COLORED = Metadata(name="colored", thing_colors=[(200, 100, 50)], stuff_colors=[(1, 2, 3)])
RED = (250, 0, 0)


def painting(height=80, width=120, **kwargs):
    return Painting(np.full((height, width, 3), 100, np.uint8), PLAIN, 0.5, **kwargs)


def square(height=80, width=120, top=20, left=30, side=30):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_mask_is_mixed_with_the_picture():
    canvas = painting()
    canvas.mask(square(), RED)
    drawn = canvas.finish()
    np.testing.assert_array_equal(drawn[25:45, 35:55], np.full((20, 20, 3), (175, 50, 50)))
    outside = drawn[~square(top=18, left=28, side=34)]
    np.testing.assert_array_equal(outside, np.full_like(outside, 100))
    np.testing.assert_array_equal(drawn[20, 30:60], np.full((30, 3), (125, 0, 0)))  # the edge


def test_a_hole_stays_as_it_was():
    mask = square() & ~square(top=30, left=40, side=10)
    canvas = painting()
    canvas.mask(mask, RED)
    drawn = canvas.finish()
    np.testing.assert_array_equal(drawn[32:38, 42:48], np.full((6, 6, 3), 100))
    assert tuple(drawn[29, 45]) == (125, 0, 0)  # its edge is drawn too


def test_the_picture_that_is_given_is_left_alone():
    image = np.full((80, 120, 3), 100, np.uint8)
    canvas = Painting(image, PLAIN, 1.0)
    canvas.mask(square(), RED, "name")
    canvas.finish()
    assert (image == 100).all()


def test_masks_and_boxes_are_enlarged_with_the_picture():
    canvas = painting(8, 12, factor=10)
    canvas.mask(square(8, 12, 2, 3, 3), RED)
    canvas.box((3, 2, 6, 5), (0, 0, 250), "")
    drawn = canvas.finish()
    assert drawn.shape == (80, 120, 3)
    np.testing.assert_array_equal(drawn[35, 45], (175, 50, 50))
    np.testing.assert_array_equal(drawn[49, 45], (0, 0, 250))


@pytest.mark.parametrize("point", [(0, 0), (119, 79), (118, 0), (0, 79)])
def test_labels_stay_inside_of_the_picture(point):
    canvas = painting()
    canvas.box((*point, point[0] + 1, point[1] + 1), (250, 250, 250), "name")
    dark = (canvas.finish() < 90).all(axis=2)
    y, x = np.nonzero(dark)
    inside = painting()
    inside.box((40, 30, 41, 31), (250, 250, 250), "name")
    assert dark.sum() >= 0.95 * (inside.finish() < 90).all(axis=2).sum()  # none of it is cut off
    assert abs(x - point[0]).max() < 60 and abs(y - point[1]).max() < 30


def test_a_label_that_is_wider_than_the_picture_is_cut():
    canvas = painting(20, 20)
    canvas.mask(square(20, 20, 5, 5, 10), RED, "a long name")
    assert canvas.finish().shape == (20, 20, 3)


def label_height(height, width):
    """Pixels of the dark ground of a label on grey."""
    canvas = painting(height, width)
    canvas.box((width // 4, height // 4, width // 2, height // 2), (101, 101, 101), "dog 93%")
    return np.ptp(np.nonzero((canvas.finish() < 90).all(axis=2))[0]) + 1


def test_labels_grow_with_the_picture():
    assert 14 <= label_height(400, 400) <= 24
    assert 60 <= label_height(3000, 4000) <= 120


def test_an_empty_mask_is_nothing_to_paint():
    canvas = painting()
    canvas.mask(np.zeros((80, 120), bool), RED, "name")
    assert (canvas.finish() == 100).all()


def test_the_label_of_a_mask_is_where_it_is_thickest():
    mask = square(top=4, left=4, side=4)  # a small part
    mask[40:75, 60:110] = True
    canvas = painting()
    canvas.mask(mask, (100, 100, 100), "name")
    y, x = np.nonzero((canvas.finish() < 40).all(axis=2))
    assert 50 < y.mean() < 65 and 75 < x.mean() < 95


def boxes(*left):
    return torch.tensor([[float(x), 0, float(x) + 10, 10] for x in left])


@pytest.mark.parametrize("metadata", [PLAIN, COLORED])
def test_colors_stay_with_objects_that_move_and_hide(metadata):
    colors = InstanceColors(metadata)
    first, second = colors(boxes(0, 50), [0, 0])
    assert first != second
    assert colors(boxes(52, 2), [0, 0]) == [second, first]
    assert colors(boxes(53), [0]) == [second]
    assert colors(torch.zeros(0, 4), []) == []
    assert colors(boxes(3, 54), [0, 0]) == [first, second]


def test_another_class_or_place_is_another_object():
    colors = InstanceColors(PLAIN)
    (first,) = colors(boxes(0), [0])
    assert colors(boxes(0), [1]) != [first]
    assert colors(boxes(30), [0]) != [first]


def test_two_objects_never_share_what_one_had():
    colors = InstanceColors(PLAIN)
    (first,) = colors(boxes(0), [0])
    again, other = colors(boxes(0, 1), [0, 0])
    assert again == first != other


def test_a_hidden_object_is_forgotten_in_the_end():
    colors = InstanceColors(PLAIN)
    (first,) = colors(boxes(0), [0])
    for _ in range(9):
        colors(boxes(100), [0])
    assert colors(boxes(0), [0]) != [first]


def test_things_keep_the_tone_of_their_class():
    colors = InstanceColors(COLORED)(boxes(*range(0, 200, 20)), [0] * 10)
    assert all(red > green > blue for red, green, blue in colors)


def test_stuff_without_a_color_gets_one():
    assert stuff_color(COLORED, 0) == (1, 2, 3)
    assert stuff_color(PLAIN, 0) != stuff_color(PLAIN, 1) == stuff_color(COLORED, 1)


def test_a_box_beyond_the_edge_is_closed_there():
    canvas, inside = painting(), painting()
    canvas.box((-40.0, 10.0, 200.0, 300.0), RED, "")
    inside.box((0.0, 10.0, 120.0, 80.0), RED, "")
    np.testing.assert_array_equal(canvas.finish(), inside.finish())
    assert tuple(canvas.pixels[40, 0]) == RED
