from fractions import Fraction

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from vitadapter_d2 import model_zoo
from vitadapter_d2.data import PadShortSide, ResizeShortSide, ResizeToMultiple, ResizeToScale
from vitadapter_d2.data.resizing import OpenCVResizeTransform, scaled_size


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(11, 50), (7, 9), (48, 72), (24, 36)])
def test_images_are_interpolated_between_four_pixels_even_when_they_shrink(image, size):
    result = OpenCVResizeTransform(24, 36, *size).apply_image(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, size, mode="bilinear", align_corners=False)
    assert result.shape == (*size, 3) and result.dtype == np.uint8
    np.testing.assert_allclose(result, expected[0].permute(1, 2, 0).numpy(), atol=1)
    if size < (24, 36):  # where Detectron2's differs
        theirs = T.ResizeTransform(24, 36, *size).apply_image(image)
        assert np.abs(theirs.astype(int) - result).max() > 20


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_label_maps_keep_their_values(dtype):
    labels = np.random.default_rng(0).choice([0, 3, 254, 255], (24, 36)).astype(dtype)
    for size in ((11, 50), (48, 72)):
        result = OpenCVResizeTransform(24, 36, *size).apply_segmentation(labels)
        assert result.shape == size and result.dtype == dtype
        assert set(np.unique(result)) == {0, 3, 254, 255}
    doubled = OpenCVResizeTransform(24, 36, 48, 72).apply_segmentation(labels)
    assert np.array_equal(doubled, labels.repeat(2, axis=0).repeat(2, axis=1))


def test_a_single_channel_is_kept(image):
    assert OpenCVResizeTransform(24, 36, 5, 6).apply_image(image[..., :1]).shape == (5, 6, 1)


def test_points_and_boxes_move_with_the_image(image):
    transform = OpenCVResizeTransform(24, 36, 48, 18)
    assert transform.apply_coords(np.array([[36.0, 24.0], [1.0, 1.0]])).tolist() == [
        [18, 48],
        [0.5, 2],
    ]
    assert transform.inverse().apply_image(transform.apply_image(image)).shape == image.shape


# Height, width, scale, and the size that mmcv gives.
SIZES = [
    ((512, 683), (2048, 512), (512, 683)),
    ((1024, 2048), (2048, 1024), (1024, 2048)),
    ((300, 300), (2048, 640), (640, 640)),
    ((100, 1000), (2048, 512), (205, 2048)),
    ((375, 500), (520, 520), (390, 520)),
    ((960, 999), (999, 960), (960, 999)),
    ((960, 999), (960, 999), (960, 999)),
    ((1, 5000), (512, 512), (1, 512)),
]


@pytest.mark.parametrize(("size", "scale", "expected"), SIZES)
def test_sizes_keep_the_shape_within_the_scale(size, scale, expected):
    assert scaled_size(*size, scale) == expected
    assert scaled_size(*size[::-1], scale) == expected[::-1]
    factor = min(Fraction(max(scale), max(size)), Fraction(min(scale), min(size)))
    exact = [float(side * factor) for side in size]
    assert np.abs(np.array(expected) - exact).max() <= 0.5 or 1 in expected


def test_ratios_are_uniform_and_limits_rounded_down(image):
    np.random.seed(0)
    augmentation = ResizeToScale((205, 51), (0.5, 2.0))
    heights = [augmentation.get_transform(image).new_height for _ in range(2000)]
    assert set(heights) == set(range(25, 102))
    low, high = np.percentile(heights, (25, 75))
    assert low == pytest.approx(25.5 + 0.25 * 76.5, abs=3)
    assert high == pytest.approx(25.5 + 0.75 * 76.5, abs=3)


def test_a_test_resize_is_fixed_and_rounded_up_to_the_multiple(image):
    augmented = T.AugInput(image, sem_seg=image[..., 0])
    transforms = T.AugmentationList([ResizeToScale((999, 50)), ResizeToMultiple(32)])(augmented)
    assert [t.new_height for t in transforms.transforms] == [50, 64]
    assert [t.new_width for t in transforms.transforms] == [75, 96]
    assert augmented.image.shape == (64, 96, 3) and augmented.sem_seg.shape == (64, 96)
    twice = ResizeToMultiple(32).get_transform(augmented.image)
    assert np.array_equal(twice.apply_image(augmented.image), augmented.image)


# Height, width, and what mmcv makes of them in (1333, 800).
DETECTOR_SIZES = [
    ((480, 640), (800, 1067)),
    ((427, 640), (800, 1199)),
    ((150, 640), (312, 1333)),
    ((201, 640), (419, 1333)),  # 418.6
    ((3, 9000), (1, 1333)),  # Detectron2 rounds to 0
    ((1, 1), (800, 800)),
]


@pytest.mark.parametrize(("size", "expected"), DETECTOR_SIZES)
def test_a_detector_sees_the_size_of_mmcv(size, expected):
    for shape, rounded in ((size, expected), (size[::-1], expected[::-1])):
        augmented = T.AugInput(np.zeros((*shape, 3), np.uint8))
        T.AugmentationList([ResizeShortSide(800, 1333)])(augmented)
        assert augmented.image.shape == (*rounded, 3)


def test_the_long_side_limits_the_short_one_as_in_detectron2(image):
    for lengths, longest in ((60, 45), (20, 45), (60, 20)):
        ours = ResizeShortSide(lengths, longest).get_transform(image)
        theirs = T.ResizeShortestEdge(lengths, longest).get_transform(image)
        assert (ours.new_height, ours.new_width) == (theirs.new_h, theirs.new_w)


def test_short_sides_are_drawn_from_a_range_or_a_list(image):
    np.random.seed(0)

    def drawn(lengths, style):
        augmentation = ResizeShortSide(lengths, 1000, style)
        return {augmentation.get_transform(image).new_height for _ in range(400)}

    assert drawn((40, 48), "range") == set(range(40, 49))
    assert drawn([40, 44, 48], "choice") == {40, 44, 48}


def test_boxes_polygons_and_bit_masks_move_with_the_image(tmp_path):
    pixels = np.zeros((40, 61), np.uint8)
    pixels[10:20, 15:45] = 200
    Image.fromarray(np.stack([pixels] * 3, axis=2)).save(tmp_path / "image.png")
    corners = [15.0, 10.0, 45.0, 10.0, 45.0, 20.0, 15.0, 20.0]
    runs = coco_mask.encode(np.asfortranarray(pixels // 200))
    for kind, segmentation in (("polygon", [corners]), ("bitmask", runs)):
        found = {"bbox": [15, 10, 45, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        record = {
            "file_name": str(tmp_path / "image.png"),
            "annotations": [{**found, "segmentation": segmentation}],
        }
        mapper = DatasetMapper(
            is_train=True,
            augmentations=[ResizeShortSide((67, 67), 1000, "range"), T.RandomFlip(1.0)],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format=kind,
        )
        output = mapper(record)
        assert output["image"].shape == (3, 67, 102)
        instances = output["instances"]
        rows, columns = np.nonzero(output["image"][0].numpy() > 100)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        for boxes in (instances.gt_boxes, instances.gt_masks.get_bounding_boxes()):
            np.testing.assert_allclose(boxes.tensor[0], seen, atol=1)


# Part of the config, and whether the recipe is mmdetection's rather than facebook's.
RECIPES = [
    ("coco/mask_rcnn_deit_adapter_small_fpn_1x_coco", True, True),
    ("coco/atss_deit_adapter_small_fpn_3x_coco", True, True),
    ("coco/htcpp_beit_adapter_large_fpn_3x_coco", True, None),
    ("coco/mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco", None, True),
    ("coco/mask2former_beitv2_adapter_large_16x1_3x_coco_panoptic", True, True),
    ("coco/mask2former_deit_adapter_small_50ep_coco_panoptic", None, False),
    ("coco/mask2former_deit_adapter_small_50ep_coco_instance", None, False),
    ("ade20k/mask2former_beitv2_adapter_large_640_160k_ade20k_panoptic", False, False),
]


@pytest.mark.parametrize(("name", "in_training", "in_test"), RECIPES)
def test_each_recipe_resizes_with_its_own_library(name, in_training, in_test):
    loaders = model_zoo.get_config(name).dataloader
    for loader, expected in ((loaders.train, in_training), (loaders.test, in_test)):
        text = str(loader.mapper.augmentations)
        found = "ResizeShortSide" in text, "ResizeShortestEdge" in text
        assert found == (expected is True, expected is False)
    image = np.zeros((50, 70, 3), np.uint8)
    steps = list(instantiate(loaders.test.mapper.augmentations))
    if in_test:
        (transform,) = [step.get_transform(image) for step in steps]
        assert (transform.new_height, transform.new_width) == (800, 1120)


def test_padding_has_a_colour_per_channel_and_is_ignored(image):
    mean = (123.675, 116.28, 103.53)
    augmented = T.AugInput(image, sem_seg=image[..., 0])
    T.AugmentationList([PadShortSide(30, mean)])(augmented)
    assert augmented.image.shape == (30, 36, 3) and augmented.image.dtype == np.uint8
    assert np.array_equal(augmented.image[:24], image)
    assert (augmented.image[24:] == (124, 116, 104)).all()
    assert (augmented.sem_seg[24:] == 255).all()
    assert np.array_equal(augmented.sem_seg[:24], image[..., 0])
    exact = PadShortSide(40, mean).get_transform(image).apply_image(image.astype(np.float32))
    assert exact.shape == (40, 40, 3)
    np.testing.assert_allclose(exact[24:], np.broadcast_to(mean, (16, 40, 3)), rtol=1e-6)
    zeros = PadShortSide(40).get_transform(image).apply_image(image)
    assert not zeros[24:].any() and not zeros[:, 36:].any()
    transform = PadShortSide(5).get_transform(image)
    assert np.array_equal(transform.apply_image(image), image)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"got \(0, 5\)"):
        ResizeToScale((0, 5))
    for ratios in ((0.0, 1.0), (2.0, 1.0), (1.0,)):
        with pytest.raises(ValueError, match="0 < low <= high, got"):
            ResizeToScale((5, 5), ratios)
    with pytest.raises(ValueError, match="got 0"):
        ResizeToMultiple(0)
    with pytest.raises(ValueError, match="got -1"):
        PadShortSide(-1)
    for lengths, longest in ((0, 5), ((), 5), ((3, 4), 0)):
        with pytest.raises(ValueError, match="must be positive"):
            ResizeShortSide(lengths, longest)
    with pytest.raises(ValueError, match="got 'value'"):
        ResizeShortSide(5, 5, "value")
    with pytest.raises(ValueError, match=r"a range .* got \(5,\)"):
        ResizeShortSide(5, 5, "range")


def test_augmentations_can_be_printed():
    assert repr(ResizeToMultiple(16)) == "ResizeToMultiple(divisor=16)"
    assert repr(ResizeToScale([8, 4])) == "ResizeToScale(scale=(8, 4))"
    assert repr(PadShortSide(8, 1.0)) == "PadShortSide(size=8, pad_value=1.0)"
