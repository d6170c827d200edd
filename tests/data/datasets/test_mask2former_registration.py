"""The sets of Mask2Former's recipes beside COCO: ADE20K and Cityscapes, panoptic and objects."""

import hashlib
import json

import pytest
from detectron2.data import MetadataCatalog

from vitadapter_d2.data.datasets.cityscapes import CITYSCAPES_SEMANTIC_CATEGORIES
from vitadapter_d2.data.datasets.published import PUBLISHED


def digest(rows: list) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("split", ["train", "val"])
def test_ade20ks_tables_are_the_published_ones(split):
    """Names, colours, kinds and ids, hashed from tables that were made without this project."""
    panoptic = MetadataCatalog.get(f"ade20k_panoptic_{split}")
    things = set(panoptic.thing_dataset_id_to_contiguous_id.values())
    both = zip(panoptic.stuff_classes, panoptic.stuff_colors, strict=True)
    rows = [[name, list(color), int(i in things)] for i, (name, color) in enumerate(both)]
    assert (len(rows), len(things), digest(rows)) == (150, 100, "893f7c9291f0e786")
    instance = MetadataCatalog.get(f"ade20k_instance_{split}")
    ids = instance.thing_dataset_id_to_contiguous_id
    assert list(ids.values()) == list(range(100)) and set(ids) == things
    all_three = zip(instance.thing_classes, instance.thing_colors, ids, strict=True)
    rows = [[name, list(color), raw_id] for name, color, raw_id in all_three]
    assert (len(rows), digest(rows)) == (100, "f312d26b2cfbebd4")


@pytest.mark.parametrize("split", ["train", "val"])
def test_cityscapes_tables_are_the_published_ones(split):
    panoptic = MetadataCatalog.get(f"cityscapes_fine_panoptic_{split}")
    things = panoptic.thing_dataset_id_to_contiguous_id
    both = {**things, **panoptic.stuff_dataset_id_to_contiguous_id}
    raw_id = {contiguous: raw for raw, contiguous in both.items()}
    rows = [
        [name, list(color), raw_id[i], int(raw_id[i] in things)]
        for i, (name, color) in enumerate(
            zip(panoptic.stuff_classes, panoptic.stuff_colors, strict=True)
        )
    ]
    assert (len(rows), len(things), digest(rows)) == (19, 8, "b26a2853ace5be90")
    assert [[c.name, list(c.color), c.id, c.is_thing] for c in CITYSCAPES_SEMANTIC_CATEGORIES] == (
        rows
    )
    instance = MetadataCatalog.get(f"cityscapes_fine_instance_seg_{split}")
    ids = instance.thing_dataset_id_to_contiguous_id
    assert list(ids.values()) == list(range(8))
    all_three = zip(instance.thing_classes, instance.thing_colors, ids, strict=True)
    objects = [[name, list(color), raw, 1] for name, color, raw in all_three]
    assert digest(objects) == "210d8722515b8ca5"
    assert objects == [row for row in rows if row[3]]


def test_the_published_numbers_of_images_are_known():
    for name, train, val in (
        ("ade20k_panoptic_{}", 20210, 2000),
        ("ade20k_instance_{}", 20210, 2000),
        ("cityscapes_fine_panoptic_{}", 2975, 500),
        ("cityscapes_fine_instance_seg_{}", 2975, 500),
    ):
        assert PUBLISHED[name.format("train")].images == train
        assert PUBLISHED[name.format("val")].images == val
