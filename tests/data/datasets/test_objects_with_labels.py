import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image

from vitadapter_d2.data.datasets import get_objects_with_labels
from vitadapter_d2.data.datasets.objects_with_labels import register_stuffthing


def test_objects_and_label_maps_of_the_same_image_go_through_detectron2s_mapper(tiny_root):
    records = get_objects_with_labels("tiny_train", "tiny_train_panoptic")
    assert len(records) == 8
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    for record in records:
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        item = mapper(record)
        assert torch.equal(item["sem_seg"], torch.from_numpy(labels).long())
        instances = item["instances"]
        for mask, number in zip(instances.gt_masks.tensor, instances.gt_classes, strict=True):
            assert (item["sem_seg"][mask] == number).float().mean() > 0.9


def test_an_image_without_a_label_map_is_named(tiny_root):
    with pytest.raises(ValueError, match=r"'tiny_val_panoptic' has no label map of \S+ of 'tiny_t"):
        get_objects_with_labels("tiny_train", "tiny_val_panoptic")


def test_coco_stuff_is_read_as_it_is_downloaded(tmp_path):
    images, labels = tmp_path / "coco/train2017", tmp_path / "coco/stuffthingmaps/train2017"
    for folder, suffix in ((images, "jpg"), (labels, "png")):
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 181, np.uint8)).save(folder / f"000000000009.{suffix}")
    names = [f"coco_2017_{split}_stuffthing" for split in ("train", "val")]
    registered = {name: DatasetCatalog.pop(name) for name in names}
    metadata = {name: MetadataCatalog.pop(name) for name in names}
    try:
        register_stuffthing(str(tmp_path))
        (record,) = DatasetCatalog.get(names[0])
        assert record["sem_seg_file_name"] == str(labels / "000000000009.png")
        with pytest.raises(FileNotFoundError, match="stuffthingmaps/val2017"):
            DatasetCatalog.get(names[1])
    finally:
        for name in names:
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)
            DatasetCatalog.register(name, registered[name])
            MetadataCatalog[name] = metadata[name]
