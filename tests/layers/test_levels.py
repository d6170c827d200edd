import torch

from vitadapter_d2.layers.levels import flatten_levels, level_centers, split_levels


def test_split_is_the_inverse_of_flatten():
    shapes = [(3, 5), (2, 3), (1, 1)]
    maps = [torch.randn(2, 4, *shape) for shape in shapes]
    tokens = flatten_levels(maps)
    assert tokens.shape == (2, 15 + 6 + 1, 4)
    torch.testing.assert_close(tokens[:, 15 + 4], maps[1][:, :, 1, 1])
    for level, expected in zip(split_levels(tokens, shapes), maps, strict=True):
        torch.testing.assert_close(level, expected)


def test_centers_are_the_official_reference_points(reference_case):
    case = reference_case("deform_inputs")
    points, shapes, _ = case.deform_inputs1
    torch.testing.assert_close(level_centers([(6, 10)]), points)
    assert shapes.tolist() == [[12, 20], [6, 10], [3, 5]]
    points, _, _ = case.deform_inputs2
    torch.testing.assert_close(level_centers([(12, 20), (6, 10), (3, 5)]), points)
