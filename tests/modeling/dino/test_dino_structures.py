import torch
from dino_parts import STRIDES, make_levels, make_targets

from vitadapter_d2.layers.levels import level_centers


def test_cells_are_padding_where_they_begin_beyond_the_image():
    sizes = [(96, 160), (70, 97)]
    levels = make_levels(sizes, (96, 160))
    expected = [
        [
            row * stride >= height or column * stride >= width
            for stride, (rows, columns) in zip(STRIDES, levels.shapes, strict=True)
            for row in range(rows)
            for column in range(columns)
        ]
        for height, width in sizes
    ]
    assert levels.padding.tolist() == expected
    assert levels.shapes == [(12, 20), (6, 10), (3, 5), (2, 3)]


def test_centers_count_from_the_image_itself():
    levels = make_levels([(96, 160), (70, 97)], (96, 160))
    cell = 3 * 20 + 5  # row 3, column 5 of the finest level
    torch.testing.assert_close(levels.centers[0, cell], torch.tensor([5.5 / 20, 3.5 / 12]))
    torch.testing.assert_close(levels.centers[1, cell], torch.tensor([5.5 / 13, 3.5 / 9]))
    torch.testing.assert_close(levels.cell_ends[1, cell], torch.tensor([6 / 13, 4 / 9]))


def test_centers_lie_at_their_cell_in_the_padded_maps():
    levels = make_levels([(96, 160), (70, 97)], (96, 160))
    placed = levels.in_batch(levels.centers)  # (B, S, L, 2)
    sizes = [height * width for height, width in levels.shapes]
    own = torch.cat(
        [part[:, :, level] for level, part in enumerate(placed.split(sizes, dim=1))], dim=1
    )
    expected = level_centers(levels.shapes)[:, :, 0].expand_as(own)
    torch.testing.assert_close(own, expected)


def test_boxes_are_scaled_in_position_and_size():
    levels = make_levels([(96, 160), (48, 80)], (96, 160))
    boxes = torch.tensor([0.5, 0.25, 0.2, 0.4]).expand(2, 1, 4)
    placed = levels.in_batch(boxes)
    assert placed.shape == (2, 1, 4, 4)
    torch.testing.assert_close(placed[0, 0, 0], boxes[0, 0])
    torch.testing.assert_close(placed[1, 0, 0], torch.tensor([0.25, 0.125, 0.1, 0.2]))
    # At stride 64 the half image covers two of three columns and one of two rows.
    scale = torch.tensor([2 / 3, 1 / 2, 2 / 3, 1 / 2])
    torch.testing.assert_close(placed[1, 0, 3], boxes[1, 0] * scale)


def test_a_batch_without_padding_has_no_mask():
    assert make_levels([(96, 160), (96, 160)], (96, 160)).padding is None
    assert make_levels([(95, 155)], (96, 160)).padding is None  # the last cells are begun
    assert make_levels([(95, 120)], (96, 160)).padding is not None


def test_targets_know_their_image_and_place():
    targets = make_targets(2, 0, 3)
    assert targets.image_index.tolist() == [0, 0, 2, 2, 2]
    assert targets.slot.tolist() == [0, 1, 0, 1, 2]
