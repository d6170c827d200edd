import pytest
import torch

from vitadapter_d2.layers.point_sample import sample_points, uncertain_points


def naive_sample(image, point):
    """Bilinear value of a (H, W) image at one (x, y), by the four neighbours."""
    height, width = image.shape
    x, y = point[0].item() * width - 0.5, point[1].item() * height - 0.5
    value = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value += weight * image[row, column].item()
    return value


def test_samples_are_bilinear_with_zeros_outside():
    torch.manual_seed(0)
    maps, points = torch.randn(2, 3, 5, 7), torch.rand(2, 11, 2)
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.5], [0.01, 0.99]])
    sampled = sample_points(maps, points)
    for image in range(2):
        for channel in range(3):
            expected = [naive_sample(maps[image, channel], point) for point in points[image]]
            torch.testing.assert_close(
                sampled[image, channel], torch.tensor(expected), rtol=1e-4, atol=1e-5
            )


def test_cell_centres_give_the_cells():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    x, y = (torch.arange(3) + 0.5) / 3, (torch.arange(2) + 0.5) / 2
    points = torch.stack((x.repeat(2), y.repeat_interleave(3)), -1)[None]
    torch.testing.assert_close(sample_points(maps, points)[0, 0], torch.arange(6.0))


def test_bf16_maps_are_sampled_at_float32_points():
    torch.manual_seed(0)
    maps, points = torch.randn(1, 1, 4, 320).bfloat16(), torch.rand(1, 50, 2)
    sampled = sample_points(maps, points)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, sample_points(maps.float(), points))


def test_no_maps_give_no_samples():
    maps = torch.zeros(0, 1, 4, 4, requires_grad=True)
    sampled = sample_points(maps, torch.zeros(0, 5, 2))
    assert sampled.shape == (0, 1, 5)
    assert sampled.requires_grad


def test_uncertain_points_lie_at_the_zero_crossing():
    torch.manual_seed(0)
    logits = torch.linspace(-1, 1, 64).expand(3, 16, 64)  # zero at x = 0.5
    points = uncertain_points(logits, 200, oversample_ratio=4.0, importance_ratio=0.75)
    assert points.shape == (3, 200, 2)
    distance = (points[..., 0] - 0.5).abs()
    # 150 of 800 candidates lie within 0.09 of the crossing; at the border, where logits fade to the
    # zeros outside, up to twice as far.
    assert (distance[:, :150] < 0.2).all()
    assert (distance[:, 150:] > 0.2).any(dim=1).all()
    assert not torch.equal(points[0], points[1])


def test_uncertainty_is_that_of_the_sampled_logit():
    torch.manual_seed(0)
    logits = torch.full((1, 8, 8), 9.0)
    logits[..., 4:] = -9.0  # no pixel is undecided, the edge between two of them is
    points = uncertain_points(logits, 64, importance_ratio=1.0, oversample_ratio=40.0)
    assert ((points[..., 0] - 0.5).abs() < 0.5 / 8).all()


@pytest.mark.parametrize(("num_points", "importance"), [(1, 0.75), (7, 0.0), (7, 1.0), (5, 0.75)])
def test_number_of_points_is_exact(num_points, importance):
    points = uncertain_points(torch.randn(2, 4, 4), num_points, 3.0, importance)
    assert points.shape == (2, num_points, 2)
    assert ((points >= 0) & (points < 1)).all()
