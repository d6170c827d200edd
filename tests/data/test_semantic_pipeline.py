"""The official training pipeline as the configs put it together."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from vitadapter_d2.data import SemanticMapper
from vitadapter_d2.engine.config.loading import configs_root

# Builder, its options; what the official configuration of that crop has: classes, crop, scale.
OFFICIAL = [
    ("ade20k_semantic", {}, 150, 512, (2048, 512)),
    ("ade20k_semantic", {"crop": 640}, 150, 640, (2048, 640)),
    ("ade20k_semantic", {"crop": 896}, 150, 896, (3584, 896)),
    ("cityscapes_semantic", {}, 19, 896, (2048, 1024)),
    ("coco_stuff_10k_semantic", {}, 171, 512, (2048, 512)),
    ("coco_stuff_164k_semantic", {}, 171, 640, (2560, 640)),
    ("coco_stuff_164k_semantic", {"crop": 896}, 171, 896, (3584, 896)),
    ("pascal_context_semantic", {}, 59, 480, (520, 520)),
    ("mapillary_semantic", {}, 19, 896, (2048, 1024)),
    ("potsdam_semantic", {}, 6, 512, (2048, 512)),
    ("chase_db1_semantic", {}, 2, 128, (999, 960)),
]


def build(name, **options):
    path = configs_root() / "common" / "data" / f"{name}.py"
    return LazyConfig.load(str(path), name)(**options)


@pytest.mark.parametrize(("name", "options", "classes", "crop", "scale"), OFFICIAL)
def test_each_set_has_its_official_crop_and_scale(name, options, classes, crop, scale):
    loaders = OmegaConf.create(
        build(name, has_masks=False, **options), flags={"allow_objects": True}
    )
    mapper = loaders.train.mapper
    resize, cut, *_, pad = mapper.augmentations
    assert mapper.num_classes == classes
    assert tuple(resize.scale) == scale and tuple(resize.ratio_range) == (0.5, 2.0)
    assert tuple(cut.crop_size) == (crop, crop) and cut.single_category_max_area == 0.75
    assert pad.size == crop
    assert loaders.test.mapper.augmentations == []
    names = [loaders.train.dataset.names, loaders.test.dataset.names]
    for registered in OmegaConf.to_object(OmegaConf.create(names)):
        for one in [registered] if isinstance(registered, str) else registered:
            assert one in DatasetCatalog.list()
            assert len(MetadataCatalog.get(one).stuff_classes) == classes
    assert {e.dataset_name for e in loaders.evaluator} == {loaders.test.dataset.names}


@pytest.fixture
def record(tmp_path):
    """Left two thirds class 3, the rest class 7, the last column without label."""
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    labels = np.full((60, 90), 3, np.uint8)
    labels[:, 60:], labels[:, 89] = 7, 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    files = {"file_name": "image.png", "sem_seg_file_name": "labels.png"}
    return {key: str(tmp_path / name) for key, name in files.items()}


def pipeline(**options):
    loaders = build("ade20k_semantic", crop=48, scale=(200, 50), **options)
    return instantiate(loaders["train"].mapper)


def test_crops_have_one_size_and_padding_is_the_mean(record):
    np.random.seed(0)
    mapper = pipeline(has_masks=True)
    padded = 0
    for _ in range(30):
        output = mapper(record)
        image, labels = output["image"], output["sem_seg"]
        assert image.shape == (3, 48, 48) and image.dtype == torch.uint8
        assert labels.shape == (48, 48) and labels.dtype == torch.int64
        assert set(labels.unique().tolist()) <= {3, 7, 255}
        is_padded = labels[-1].eq(255).all()
        if is_padded:
            assert image[:, -1].unique(dim=1).flatten().tolist() == [124, 116, 104]
            padded += 1
        masks = output["instances"].gt_masks.tensor
        assert torch.equal(masks.any(dim=0), labels != 255)
    assert 5 < padded < 25


def test_no_class_fills_a_crop_if_ten_tries_can_avoid_it(record):
    np.random.seed(0)
    mapper = pipeline(has_masks=False)
    shares = []
    for _ in range(40):
        labels = mapper(record)["sem_seg"]
        counts = torch.bincount(labels[labels != 255])
        shares.append(float(counts.max() / counts.sum()))
    assert np.mean(np.array(shares) < 0.75) > 0.9


def test_without_masks_the_rest_is_the_same(record):
    outputs = []
    for has_masks in (True, False):
        np.random.seed(3)
        outputs.append(pipeline(has_masks=has_masks)(record))
    assert set(outputs[0]) - set(outputs[1]) == {"instances"}
    for key in ("image", "sem_seg"):
        assert torch.equal(outputs[0][key], outputs[1][key])


def test_the_padding_takes_the_mean_of_the_model(record):
    np.random.seed(0)
    mapper = pipeline(has_masks=False, pixel_mean=(127.5, 127.5, 127.5))
    outputs = [mapper(record) for _ in range(30)]
    padded = [o["image"][:, -1] for o in outputs if o["sem_seg"][-1].eq(255).all()]
    assert padded and all((row == 128).all() for row in padded)


def test_labels_that_are_none_are_refused_in_training(record):
    mapper = SemanticMapper([], num_classes=150)
    path = record["sem_seg_file_name"]
    drawing = Image.fromarray(np.zeros((60, 90, 3), np.uint8))
    for mode, message in (("RGB", "must have one channel"), ("P", "is a palette image")):
        drawing.convert(mode).save(path)
        with pytest.raises(ValueError, match=rf"labels\.png {message}"):
            mapper(record)
    assert SemanticMapper([], allow_palette=True)(record)["sem_seg"].unique().numel() == 1
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        mapper({**record, "sem_seg_file_name": "none.png"})
