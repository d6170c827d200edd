import pytest
import torch
import torch.nn.functional as F

from vitadapter_d2.inference import strips
from vitadapter_d2.inference.strips import resize_strips, strips_of

SIZES = [
    ((20, 30), (20, 30)),
    ((20, 30), (47, 61)),
    ((47, 61), (20, 30)),
    ((64, 9), (7, 9)),
    ((7, 9), (64, 9)),
    ((1, 1), (13, 5)),
    ((90, 40), (1, 1)),
    ((33, 8), (32, 50)),
]


@pytest.mark.parametrize("pixels", [1, 100, 2**18])
@pytest.mark.parametrize("heights", [(1,), (7, 2, 11), (1000,)])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_strips_equal_the_resize_of_the_whole(monkeypatch, source, target, heights, pixels):
    monkeypatch.setattr(strips, "_STRIP_PIXELS", pixels)
    scores = torch.randn(3, *source)
    expected = F.interpolate(scores[None], target, mode="bilinear", align_corners=False)[0]
    rows = strips_of(target, [source])
    result = list(resize_strips(bands_of(scores, heights), source, target, rows))
    assert [part.shape[1] for part in result] == [strip.stop - strip.start for strip in rows]
    torch.testing.assert_close(torch.cat(result, dim=1), expected)


def bands_of(scores, heights):
    """Bands of these heights in turn, from a buffer that is overwritten each time."""
    buffer = torch.empty_like(scores)
    top, turn = 0, 0
    while top < scores.shape[1]:
        buffer.fill_(torch.nan)
        band = scores[:, top : top + heights[turn % len(heights)]]
        buffer[:, : band.shape[1]] = band
        yield buffer[:, : band.shape[1]]
        top, turn = top + band.shape[1], turn + 1


def test_what_exceeds_the_source_is_dropped():
    padded = torch.randn(2, 24, 40)
    result = list(resize_strips(iter([padded]), (17, 31), (9, 50), [slice(0, 4), slice(4, 9)]))
    expected = F.interpolate(padded[None, :, :17, :31], (9, 50), mode="bilinear")[0]
    torch.testing.assert_close(torch.cat(result, dim=1), expected)


def test_rows_that_are_not_needed_are_not_asked_for():
    def bands():
        yield torch.zeros(1, 6, 4)
        raise AssertionError("row 6 was asked for")

    (strip, *_) = resize_strips(bands(), (6, 4), (6, 4), [slice(0, 6)])
    assert strip.shape == (1, 6, 4)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_strips_are_small_in_every_map(monkeypatch, source, target):
    monkeypatch.setattr(strips, "_STRIP_PIXELS", 120)
    rows = strips_of(target, [source, (5, 5)])
    assert [strip.start for strip in rows[1:]] == [strip.stop for strip in rows[:-1]]
    assert rows[0].start == 0 and rows[-1].stop == target[0]
    for strip in rows:
        count = strip.stop - strip.start
        assert count == 1 or count * target[1] <= 120
        assert count == 1 or count * source[0] / target[0] * source[1] <= 120
