from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from vitadapter_d2.data import BoostedMapper, InstaBoost
from vitadapter_d2.data.instaboost import decode, overlapping_groups
from vitadapter_d2.engine.config.loading import load_config

SIZE = (90, 120)
ALWAYS = {"aug_ratio": 1.0, "color_prob": 0.0}


def annotation(x: int, y: int, width: int, height: int, **more: Any) -> dict[str, Any]:
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "bbox": [x, y, width, height],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        "iscrowd": 0,
        "segmentation": [list(map(float, corners))],
        **more,
    }


def run_lengths(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return coco_mask.encode(np.asfortranarray(mask))


def picture(objects: list[dict[str, Any]]) -> np.ndarray:
    """Objects in 250, 60, 60 on grey."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    for one in objects:
        image[decode(one["segmentation"], *SIZE) > 0] = (250, 60, 60)
    return image


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def box_of(mask: np.ndarray) -> list[float]:
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


@pytest.mark.parametrize("action", ["normal", "horizontal", "vertical"])
@pytest.mark.parametrize("as_polygon", [True, False])
def test_pixels_masks_and_boxes_move_together(action, as_polygon):
    """An L, so that mirroring shows."""
    corner = [30.0, 20.0, 70.0, 20.0, 70.0, 32.0, 45.0, 32.0, 45.0, 62.0, 30.0, 62.0]
    one = annotation(30, 20, 40, 42, segmentation=[corner])
    if not as_polygon:
        mask = np.asfortranarray(decode([corner], *SIZE))
        one["segmentation"] = coco_mask.encode(mask)
    boost = InstaBoost((action,), (1.0,), scale=(0.8, 1.2), theta=(-9, 9), dx=5, dy=5, **ALWAYS)
    image, seen = picture([one]), set()
    np.random.seed(1)
    for _ in range(5):
        drawn = boost.draw([one], *SIZE)
        (moved,) = drawn.move_annotations()
        mask = decode([*moved["segmentation"]] if as_polygon else moved["segmentation"], *SIZE) > 0
        painted = drawn.paint(image)
        assert painted.dtype == np.uint8 and painted.shape == image.shape
        assert overlap(mask, painted[..., 0] > 170) > 0.9
        assert moved["bbox_mode"] == BoxMode.XYXY_ABS
        np.testing.assert_allclose(moved["bbox"], box_of(mask), atol=1.0)
        seen.add(tuple(np.round(moved["bbox"], 3)))
        expected = {"normal": 1, "horizontal": -1, "vertical": -1}[action]
        assert np.sign(np.linalg.det(drawn.moves[0].matrix[:, :2])) == expected
    assert len(seen) == 5


def test_the_hole_is_filled_with_what_is_around_it():
    one = annotation(40, 30, 30, 30)
    drawn = InstaBoost(scale=(0.5, 0.5), theta=(0, 0), **ALWAYS).draw([one], *SIZE)
    painted = drawn.paint(picture([one]))
    assert np.abs(painted[32, 42].astype(int) - 90).max() <= 2  # was object, now background
    assert (painted[45, 55] == (250, 60, 60)).all()


def test_crowds_and_objects_without_mask_stay_untouched():
    crowd = annotation(10, 50, 40, 30, iscrowd=1, segmentation=run_lengths(10, 50, 40, 30))
    bare = annotation(80, 50, 20, 20)
    del bare["segmentation"]
    moving = annotation(40, 15, 30, 30)
    drawn = InstaBoost(scale=(1.2, 1.2), theta=(0, 0), **ALWAYS).draw([crowd, moving, bare], *SIZE)
    first, second, third = drawn.move_annotations()
    assert first is crowd and third is bare
    assert second["bbox"] != moving["bbox"] and second["category_id"] == 2
    image = picture([crowd, moving])
    assert np.array_equal(drawn.paint(image)[70:, 10:50], image[70:, 10:50])


def test_objects_that_overlap_move_together():
    boxes = {0: (0, 0, 10, 10), 1: (50, 50, 60, 60), 2: (9, 9, 20, 20), 3: (19, 0, 30, 10)}
    assert overlapping_groups(boxes) == [(0, 2, 3), (1,)]
    pair = [annotation(30, 30, 20, 20), annotation(45, 40, 20, 20)]
    (move,) = InstaBoost(**ALWAYS).draw(pair, *SIZE).moves
    assert move.members == (0, 1)


def test_shifts_scales_and_angles_stay_in_their_ranges():
    one = annotation(30, 15, 45, 60)
    center = np.array([52.5, 45.0])
    scales, shifts, angles = [], [], []
    np.random.seed(0)
    for _ in range(300):
        matrix = InstaBoost(**ALWAYS).draw([one], *SIZE).moves[0].matrix
        scales.append(np.sqrt(np.linalg.det(matrix[:, :2])))
        angles.append(round(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))))
        shifts.append(matrix[:, :2] @ center + matrix[:, 2] - center)
    assert 0.8 <= min(scales) < 0.81 and 1.19 < max(scales) <= 1.2
    assert set(angles) == {-1, 0, 1}
    assert {round(x) for x, _ in shifts} == set(range(-3, 4))  # 45 / 15
    assert {round(y) for _, y in shifts} == set(range(-4, 5))  # 60 / 15


def test_what_is_cut_off_at_the_border_stays_there():
    one = annotation(2, 30, 60, 30)
    boost = InstaBoost(("horizontal", "normal"), (0.9, 0.1), **ALWAYS)
    for _ in range(20):
        matrix = boost.draw([one], *SIZE).moves[0].matrix
        assert matrix[0, 0] == matrix[1, 1] >= 1 and matrix[0, 1] == 0  # not mirrored, not turned
        left = matrix @ (2, 30, 1)
        assert left[0] <= 2
    only_mirrored = InstaBoost(("horizontal",), (1.0,), **ALWAYS)
    assert np.array_equal(only_mirrored.draw([one], *SIZE).moves[0].matrix, np.eye(2, 3))


def test_colours_change_with_their_probability_and_boxes_do_not():
    one = annotation(40, 30, 30, 30)
    image = picture([one])
    still = {"action_candidate": ("skip",), "action_prob": (1.0,), "aug_ratio": 1.0}
    np.random.seed(0)
    drawn = [InstaBoost(color_prob=0.5, **still).draw([one], *SIZE) for _ in range(100)]
    assert 35 < sum(each.colors is not None for each in drawn) < 65
    changed = InstaBoost(color_prob=1.0, **still).draw([one], *SIZE)
    assert not np.array_equal(changed.paint(image), image)
    assert changed.move_annotations()[0]["bbox"] == [40, 30, 70, 60]
    never = [InstaBoost(aug_ratio=0.5).draw([one], *SIZE) is None for _ in range(100)]
    assert 35 < sum(never) < 65


def test_without_objects_nothing_moves():
    image = picture([])
    drawn = InstaBoost(**ALWAYS).draw([], *SIZE)
    assert drawn.move_annotations() == []
    assert np.array_equal(drawn.paint(image), image)
    degenerate = InstaBoost(**ALWAYS).draw([annotation(30, 30, 0, 20)], *SIZE)
    assert degenerate.moves == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action_candidate": ("up",), "action_prob": (1,)}, "actions must be of normal"),
        ({"action_prob": (1.0, 1.0, 0.0)}, "action_prob must sum to 1"),
        ({"action_prob": (1.0,)}, "one per action"),
        ({"aug_ratio": 1.5}, r"aug_ratio must lie in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InstaBoost(**arguments)


@pytest.fixture
def record(tmp_path) -> dict[str, Any]:
    objects = [
        annotation(30, 20, 30, 30),
        annotation(70, 60, 30, 20, category_id=1),
        annotation(5, 60, 20, 20, iscrowd=1, segmentation=run_lengths(5, 60, 20, 20)),
    ]
    Image.fromarray(picture(objects[:2])).save(tmp_path / "image.png")
    Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(SIZE).astype(np.uint8)).save(
        tmp_path / "labels.png"
    )
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "image_id": 1,
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": objects,
    }


def make_mapper(boost: InstaBoost, augmentations=()) -> BoostedMapper:
    return BoostedMapper(
        boost=boost,
        is_train=True,
        augmentations=list(augmentations),
        image_format="RGB",
        use_instance_mask=True,
    )


def seeded(mapper, record):
    np.random.seed(5)
    return mapper(record)


def test_the_mapper_moves_first_and_augments_then(record):
    """Mirroring what was moved is the same as mapping and mirroring the result."""
    boost = InstaBoost(**ALWAYS)
    plain = seeded(make_mapper(boost), record)
    mirrored = seeded(make_mapper(boost, [T.HFlipTransform(SIZE[1])]), record)
    assert torch.equal(mirrored["image"], plain["image"].flip(2))
    boxes = plain["instances"].gt_boxes.tensor
    expected = torch.stack([120 - boxes[:, 2], boxes[:, 1], 120 - boxes[:, 0], boxes[:, 3]], dim=1)
    torch.testing.assert_close(mirrored["instances"].gt_boxes.tensor, expected)
    assert plain["instances"].gt_classes.tolist() == [2, 1]
    masks = plain["instances"].gt_masks.crop_and_resize(torch.tensor([[0.0, 0, 120, 90]] * 2), 120)
    red = plain["image"][0] > 170
    resized = torch.nn.functional.interpolate(red[None, None].float(), (120, 120))[0, 0] > 0
    assert overlap(masks.any(dim=0).numpy(), resized.numpy()) > 0.85


def test_the_mapper_depends_on_the_seed_alone_and_changes_no_record(record):
    before = repr(record)
    mapper = make_mapper(InstaBoost(aug_ratio=1.0))
    first, second = seeded(mapper, record), seeded(mapper, record)
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["instances"].gt_boxes.tensor, second["instances"].gt_boxes.tensor)
    third = mapper(record)
    assert not torch.equal(first["image"], third["image"])
    assert repr(record) == before
    assert torch.equal(first["sem_seg"], third["sem_seg"])  # label maps are not moved
    assert first["sem_seg"].shape == SIZE


def test_the_mapper_without_boost_is_detectron2s(record):
    theirs = DatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )(record)
    ours = make_mapper(InstaBoost(aug_ratio=0.0))(record)
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    record["annotations"] = []
    assert len(make_mapper(InstaBoost(**ALWAYS))(record)["instances"]) == 0
    with pytest.raises(ValueError, match="use_keypoint must be False"):
        BoostedMapper(
            boost=InstaBoost(), is_train=True, augmentations=[], image_format="RGB",
            use_keypoint=True,
        )  # fmt: skip


def test_the_configs_that_publish_it_have_it():
    mapper = load_config("coco/htcpp_beit_adapter_large_fpn_3x_coco").dataloader.train.mapper
    boost = instantiate(mapper).boost
    assert (boost.action_prob, boost.scale, boost.theta) == ([1, 0, 0], (0.8, 1.2), (-1, 1))
    assert (boost.dx, boost.dy, boost.color_prob, boost.aug_ratio) == (15, 15, 0.5, 0.5)
    without = load_config("coco/htcpp_beitv2_adapter_large_fpn_o365_coco").dataloader.train.mapper
    assert type(instantiate(without)) is DatasetMapper
