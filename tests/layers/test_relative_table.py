import pytest
import torch

from vitadapter_d2.layers.relative_position import resize_relative_table as resize_bicubic
from vitadapter_d2.layers.relative_table import (
    fit_relative_table,
    geometric_positions,
    resize_relative_table,
)


@pytest.mark.weights
def test_official_tables(reference_case):
    for case in reference_case("relpos_interp").cases:
        table, side = case["table"], case["dst"]
        with_class = resize_relative_table(table, side)
        torch.testing.assert_close(with_class, case["out_seg"].to(table), atol=1e-4, rtol=1e-4)
        without_class = resize_relative_table(table[:-3], side, num_extra=0)
        torch.testing.assert_close(without_class, case["out_det"].to(table), atol=1e-4, rtol=1e-4)


def test_positions_are_symmetric_and_reach_the_target():
    positions = geometric_positions(27, 79)
    assert positions[13] == 0.0
    assert abs(positions[-1] - 39) < 1e-3
    torch.testing.assert_close(torch.tensor(positions), -torch.tensor(positions[::-1].copy()))


def test_equal_sides_return_the_table():
    table = torch.randn(28, 2)
    assert resize_relative_table(table, 5) is table


def test_only_square_tables():
    with pytest.raises(ValueError, match="30 rows, 3 of them extra, is not square"):
        resize_relative_table(torch.randn(30, 2), 9)


def test_a_stored_table_of_any_grid():
    table = torch.randn(11, 11, 2)
    spline = resize_relative_table(table.flatten(0, 1), 15, num_extra=0)
    torch.testing.assert_close(fit_relative_table(table, (8, 8)).flatten(0, 1), spline)
    torch.testing.assert_close(fit_relative_table(table, (8, 10)), resize_bicubic(table, (8, 10)))
    for small in (table[:3, :3], table.to("meta"), table[:5]):
        assert fit_relative_table(small, (8, 8)).shape == (15, 15, 2)
