from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks
from PIL import Image

from vitadapter_d2.data import InstanceMapper, PanopticMapper, SemanticMapper
from vitadapter_d2.data.coco_format import ids_to_rgb, rgb_to_ids
from vitadapter_d2.data.mappers.common import transform_owner

FLIP = [T.RandomFlip(prob=1.0)]
FIELDS = {"file_name", "image_id", "height", "width", "image", "instances"}


def write_png(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


def boxes_of(output: dict) -> list[list[float]]:
    return output["instances"].gt_boxes.tensor.tolist()


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_types_shapes_and_fields(record, mapper_class):
    before = dict(record)
    output = mapper_class(FLIP, image_format="BGR")(record)
    instances = output["instances"]
    assert set(output) - {"sem_seg"} == FIELDS
    assert (output["height"], output["width"], output["image_id"]) == (20, 30, 4)
    assert output["image"].shape == (3, 20, 30)
    assert output["image"].dtype == torch.uint8
    assert output["image"].is_contiguous()
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_classes.dtype == torch.int64
    assert instances.image_size == (20, 30)
    assert record == before
    source = np.asarray(Image.open(record["file_name"]))
    assert np.array_equal(output["image"].permute(1, 2, 0).numpy(), source[:, ::-1, ::-1])


def test_panoptic_drops_the_crowd_from_the_masks_but_not_from_sem_seg(record):
    output = PanopticMapper([])(record)
    assert output["instances"].gt_classes.tolist() == [2, 0]
    assert boxes_of(output) == [[3, 2, 13, 8], [1, 16, 5, 19]]
    assert output["instances"].gt_masks.tensor.sum((1, 2)).tolist() == [60, 12]
    assert output["sem_seg"].dtype == torch.int64
    expected = np.asarray(Image.open(record["sem_seg_file_name"])).astype(np.int64)
    assert np.array_equal(output["sem_seg"].numpy(), expected)


def test_semantic_gives_one_mask_per_class_and_none_for_ignored_pixels(record):
    output = SemanticMapper([])(record)
    assert output["instances"].gt_classes.tolist() == [0, 2, 5]
    masks = output["instances"].gt_masks.tensor
    assert torch.equal(masks.any(dim=0), output["sem_seg"] != 255)
    for mask, category in zip(masks, (0, 2, 5), strict=True):
        assert torch.equal(mask, output["sem_seg"] == category)


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_flip_moves_masks_and_boxes_with_the_image(record, mapper_class):
    plain, flipped = mapper_class([])(record), mapper_class(FLIP)(record)
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    masks = plain["instances"].gt_masks.tensor
    assert torch.equal(flipped["instances"].gt_masks.tensor, masks.flip(2))
    expected = [[30 - x1, y0, 30 - x0, y1] for x0, y0, x1, y1 in boxes_of(plain)]
    assert boxes_of(flipped) == expected


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_masks_cropped_away_are_dropped(record, mapper_class):
    output = mapper_class([T.CropTransform(0, 0, 16, 12)])(record)
    assert output["image"].shape == (3, 12, 16)
    assert output["instances"].gt_classes.tolist() == [2]
    assert boxes_of(output) == [[3, 2, 13, 8]]


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_doubling_the_size_doubles_the_boxes(record, mapper_class):
    plain = mapper_class([])(record)
    output = mapper_class([T.Resize((40, 60))])(record)
    assert output["image"].shape == (3, 40, 60)
    assert (output["height"], output["width"]) == (20, 30)
    assert boxes_of(output) == [[2 * v for v in box] for box in boxes_of(plain)]


@pytest.mark.parametrize("seg_pad_value", [0, 255])
@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_padding_belongs_to_nothing_with_every_version_of_detectron2(
    record, mapper_class, seg_pad_value
):
    # FixedSizeCrop pads label maps with 0 in Detectron2 v0.6, with 255 in its main branch.
    padding = T.PadTransform(0, 0, 8, 16, 30, 20, 128, seg_pad_value=seg_pad_value)
    plain = mapper_class([])(record)["instances"]
    output = mapper_class([padding])(record)
    assert output["image"].shape == (3, 36, 38)
    assert (output["image"][:, 20:] == 128).all()
    masks = output["instances"].gt_masks.tensor
    assert torch.equal(masks[:, :20, :30], plain.gt_masks.tensor)
    assert masks.sum() == plain.gt_masks.tensor.sum()
    if "sem_seg" in output:
        assert (output["sem_seg"][20:] == 255).all()
        assert (output["sem_seg"][:, 30:] == 255).all()


def test_large_scale_jitter_runs(record):
    np.random.seed(0)
    jitter = [
        T.ResizeScale(0.1, 2.0, 64, 64),
        T.FixedSizeCrop((64, 64)),
        T.RandomFlip(),
    ]
    for mapper in (SemanticMapper(jitter), PanopticMapper(jitter), InstanceMapper(jitter)):
        for _ in range(5):
            output = mapper(record)
            assert output["image"].shape == (3, 64, 64)
            assert output["instances"].gt_masks.tensor.flatten(1).any(dim=1).all()


def test_crops_chosen_by_content_see_the_classes(record):
    np.random.seed(0)
    crop = T.RandomCrop_CategoryAreaConstraint(
        "absolute", (10, 10), single_category_max_area=0.6, ignored_category=255
    )
    for mapper in (SemanticMapper([crop]), PanopticMapper([crop])):
        assert mapper(record)["image"].shape == (3, 10, 10)


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_an_image_without_segments_gives_empty_instances(record, mapper_class):
    folder = Path(record["file_name"]).parent
    ignored, void = np.full((20, 30), 255, np.uint8), np.zeros((20, 30, 3), np.uint8)
    record["sem_seg_file_name"] = write_png(folder / "ignored.png", ignored)
    record["pan_seg_file_name"] = write_png(folder / "void.png", void)
    record["segments_info"], record["annotations"] = [], []
    instances = mapper_class([T.Resize((10, 10))])(record)["instances"]
    assert len(instances) == 0
    assert instances.gt_masks.tensor.shape == (0, 10, 10)
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.shape == (0,)


def test_a_class_out_of_range_names_file_and_value(record):
    with pytest.raises(ValueError, match=r"semantic\.png has class 5, expected one of 0 to 4"):
        SemanticMapper([], num_classes=5)(record)
    with pytest.raises(ValueError, match=r"panoptic\.png has class 5, expected one of 0 to 4"):
        PanopticMapper([], num_classes=5)(record)
    with pytest.raises(ValueError, match=r"image\.png has class 2, expected one of 0 to 1"):
        InstanceMapper([], num_classes=2)(record)


def test_a_panoptic_id_without_segment_is_named(record):
    del record["segments_info"][2]
    with pytest.raises(ValueError, match=r"panoptic\.png has segment id 70000"):
        PanopticMapper([])(record)


@pytest.mark.parametrize(
    ("mapper_class", "key"),
    [
        (SemanticMapper, "sem_seg_file_name"),
        (PanopticMapper, "pan_seg_file_name"),
        (PanopticMapper, "segments_info"),
        (InstanceMapper, "annotations"),
    ],
)
def test_a_missing_annotation_is_named(record, mapper_class, key):
    del record[key]
    with pytest.raises(ValueError, match=rf"image\.png has no '{key}'"):
        mapper_class([])(record)


def test_maps_of_another_size_or_with_colours_are_refused(record):
    folder = Path(record["file_name"]).parent
    record["sem_seg_file_name"] = write_png(folder / "small.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"size \(4, 4\), the image \(20, 30\)"):
        SemanticMapper([])(record)
    record["sem_seg_file_name"] = record["pan_seg_file_name"]
    with pytest.raises(ValueError, match="must have one channel"):
        SemanticMapper([])(record)


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_an_image_that_is_damaged_or_missing_is_named(record, mapper_class):
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"image\.png cannot be read: .*truncated"):
        mapper_class([])(record)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image\.png"):
        mapper_class([])(record)


@pytest.mark.parametrize("mapper_class", [SemanticMapper, PanopticMapper, InstanceMapper])
def test_bad_arguments_are_named(mapper_class):
    with pytest.raises(ValueError, match="'HSV'"):
        mapper_class([], image_format="HSV")


def test_sixteen_bit_labels_with_a_wide_ignore_value(record):
    labels = np.full((20, 30), 65535, np.uint16)
    labels[:5], labels[5:9] = 846, 3
    path = Path(record["file_name"]).parent / "wide.tif"
    Image.fromarray(labels).save(path)
    record["sem_seg_file_name"] = str(path)
    mapper = SemanticMapper(FLIP, num_classes=847, ignore_label=65535)
    output = mapper(record)
    assert output["instances"].gt_classes.tolist() == [3, 846]
    assert output["sem_seg"].unique().tolist() == [3, 846, 65535]


@pytest.mark.parametrize("count", [200, 255, 400])
def test_owner_maps_survive_transforms_for_any_number_of_segments(count):
    owner = np.arange(20 * 30, dtype=np.int32).reshape(20, 30) % (count + 1)
    transforms = T.TransformList([T.HFlipTransform(30), T.ResizeTransform(20, 30, 40, 60)])
    padding = T.PadTransform(0, 0, 2, 2, 60, 40, 128, 255)
    result = transform_owner(owner, T.TransformList([*transforms.transforms, padding]))
    expected = np.repeat(np.repeat(owner[:, ::-1], 2, axis=0), 2, axis=1)
    assert np.array_equal(result[:40, :60], expected)
    assert not result[40:].any() and not result[:, 60:].any()


def test_rgb_to_ids_reads_three_bytes():
    rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], np.uint8)
    assert rgb_to_ids(rgb).tolist() == [[1, 256, 65536, 2**24 - 1]]
    assert np.array_equal(ids_to_rgb(rgb_to_ids(rgb)), rgb)


def test_mappers_agree_on_the_generated_set(tiny_root):
    panoptic, instance = PanopticMapper([], num_classes=12), InstanceMapper([], num_classes=8)
    semantic = SemanticMapper([], num_classes=12)
    objects = {r["image_id"]: r for r in DatasetCatalog.get("tiny_train")}
    for record in DatasetCatalog.get("tiny_train_panoptic"):
        segments = panoptic(record)
        things = segments["instances"][segments["instances"].gt_classes < 8]
        found = instance(objects[record["image_id"]])["instances"]
        assert torch.equal(things.gt_masks.tensor, found.gt_masks.tensor)
        assert torch.equal(things.gt_classes, found.gt_classes)
        assert torch.equal(things.gt_boxes.tensor, found.gt_boxes.tensor)
        assert torch.equal(segments["sem_seg"], semantic(record)["sem_seg"])
