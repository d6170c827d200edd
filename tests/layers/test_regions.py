import pytest
import torch

from vitadapter_d2.layers.regions import line_regions


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shapes", [[(4, 6)], [(7, 5), (3, 4)]])
def test_scatter_inverts_gather(axis, shapes):
    regions = line_regions(shapes, axis, [0, 1, 0])
    tokens = torch.randn(2, sum(height * width for height, width in shapes), 3)
    gathered = regions.gather(tokens)
    assert gathered.shape == (2 * 2, regions.index.shape[1], 3)
    torch.testing.assert_close(regions.scatter(gathered, 2), tokens, rtol=0, atol=0)


def test_rows_and_columns_of_all_levels_go_by_their_centres():
    rows = line_regions([(4, 1), (2, 1)], 0, [0, 1])
    assert rows.index.tolist() == [[0, 1, 4], [2, 3, 5]]
    assert not rows.is_padded
    columns = line_regions([(1, 3)], 1, [0, 1])
    assert columns.index.tolist() == [[0, 3], [1, 2]]
    assert columns.is_padded
    assert columns.is_token.tolist() == [[True, False], [True, True]]
