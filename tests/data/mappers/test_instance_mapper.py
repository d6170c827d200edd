from functools import partial

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.structures import BoxMode

from vitadapter_d2.data import InstanceMapper

DETECTRON2S_MAPPER = partial(
    DatasetMapper,
    is_train=True,
    image_format="RGB",
    use_instance_mask=True,
    instance_mask_format="bitmask",
    recompute_boxes=True,
)


def boxes_of(output: dict) -> list[list[float]]:
    return output["instances"].gt_boxes.tensor.tolist()


def test_instance_reads_polygons_and_run_lengths_alike(record):
    output = InstanceMapper([])(record)
    assert output["instances"].gt_classes.tolist() == [2, 0]
    assert boxes_of(output) == [[3, 2, 13, 8], [1, 16, 5, 19]]


def test_instance_accepts_uncompressed_run_lengths_and_bit_masks(record):
    mask = np.zeros((20, 30), bool)
    mask[:, 3:5] = True
    uncompressed = {"size": [20, 30], "counts": [60, 40, 500]}
    for segmentation in (mask, uncompressed):
        record["annotations"] = [{"category_id": 1, "segmentation": segmentation}]
        assert boxes_of(InstanceMapper([])(record)) == [[3, 0, 5, 20]]


def test_an_object_without_mask_is_refused(record):
    del record["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match="no segmentation"):
        InstanceMapper([])(record)


def test_objects_without_a_pixel_and_crowds_are_left_out_and_what_is_left_may_be_nothing(record):
    line = [[3.0, 2.0, 13.0, 2.0, 8.0, 2.0]]
    empty = {"size": [20, 30], "counts": [600]}
    crowd = {**record["annotations"][0], "iscrowd": 1}
    nothing = [{"category_id": 1, "segmentation": s} for s in (line, empty)]
    record["annotations"] = [*nothing, crowd]
    output = InstanceMapper([], num_classes=3)(record)["instances"]
    assert len(output) == 0
    assert output.gt_masks.tensor.shape == (0, 20, 30)
    assert output.gt_boxes.tensor.shape == (0, 4) and output.gt_classes.shape == (0,)


@pytest.mark.parametrize("category", [-1, 3, 7])
def test_an_unknown_category_is_named(record, category):
    record["annotations"][0]["category_id"] = category
    with pytest.raises(
        ValueError, match=rf"image\.png has class {category}, expected one of 0 to 2"
    ):
        InstanceMapper([], num_classes=3)(record)


def test_it_agrees_with_detectron2s_mapper_where_nothing_is_padded(tiny_root):
    theirs = DETECTRON2S_MAPPER(augmentations=[])
    for record in DatasetCatalog.get("tiny_train"):
        expected, found = theirs(record)["instances"], InstanceMapper([])(record)["instances"]
        assert torch.equal(found.gt_masks.tensor, expected.gt_masks.tensor)
        assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert torch.equal(found.gt_classes, expected.gt_classes)


def test_detectron2s_mapper_cannot_do_what_this_one_is_for(record):
    """When this fails, ``InstanceMapper`` can go."""
    bounds = {"bbox": [1, 16, 4, 3], "bbox_mode": BoxMode.XYWH_ABS}
    record["annotations"] = [record["annotations"][2] | bounds]
    padding = [T.PadTransform(0, 0, 8, 16, 30, 20, 128, seg_pad_value=255)]
    assert boxes_of(InstanceMapper(padding)(record)) == [[1, 16, 5, 19]]
    assert boxes_of(DETECTRON2S_MAPPER(augmentations=padding)(record)) == [[0, 0, 38, 36]]
    record["annotations"] = []
    assert InstanceMapper([])(record)["instances"].has("gt_masks")
    with pytest.raises(AttributeError, match="gt_masks"):
        DETECTRON2S_MAPPER(augmentations=[])(record)
