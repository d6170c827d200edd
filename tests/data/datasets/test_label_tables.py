"""Every name and colour of the label tables, by a digest of the published ones."""

import hashlib
import json

import pytest
from detectron2.data import MetadataCatalog

from vitadapter_d2.data.datasets.objects365_categories import OBJECTS365_V2_NAMES

# Registered name, kind, number of classes, digest of [[name, colour or null], ...]. They are made
# of the tables in the projects that published the data sets, not of this one's.
TABLES = [
    ("ade20k_sem_seg_val", "stuff", 150, "9e6f801872e72569"),
    ("ade20k_panoptic_val", "stuff", 150, "9e6f801872e72569"),
    ("ade20k_instance_val", "thing", 100, "76aa6ad6599d89a0"),
    ("chase_db1_sem_seg_val", "stuff", 2, "c57cb369a93ea12d"),
    ("cityscapes_fine_sem_seg_val", "stuff", 19, "037328d9e9f3752d"),
    ("coco_2017_val", "thing", 80, "a59876c34190a506"),
    ("coco_2017_val_panoptic_with_sem_seg", "stuff", 133, "75a05309bc5dae81"),
    ("coco_2017_test_stuff_10k_sem_seg", "stuff", 171, "2ee38442249cd698"),
    ("coco_2017_val_stuff_164k_sem_seg", "stuff", 171, "2ee38442249cd698"),
    ("coco_2017_val_stuffthing", "stuff", 182, "00c52dad6e50b0d3"),
    ("mapillary_vistas_sem_seg_val", "stuff", 65, "8d8fff7ecdabdfab"),
    ("objects365_v2_val", "thing", 365, "d8d106bf1e2bda39"),
    ("pascal_context_59_sem_seg_val", "stuff", 59, "ddfba54812f5aba0"),
    ("potsdam_sem_seg_val", "stuff", 6, "8183678dd5633b57"),
]


@pytest.mark.parametrize(("name", "kind", "count", "digest"), TABLES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_names_and_colours_are_the_published_ones(name, kind, count, digest, split):
    if split == "train":
        name = name.replace("_test_", "_val_").replace("_val", "_train")
    metadata = MetadataCatalog.get(name)
    names = [text.strip() for text in metadata.get(f"{kind}_classes")]
    colors = metadata.get(f"{kind}_colors") or [None] * count
    assert len(names) == len(colors) == count
    rows = [[n, c if c is None else list(c)] for n, c in zip(names, colors, strict=True)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == digest


def test_lvis_has_the_published_frequency_groups():
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    groups = [category["frequency"] for category in LVIS_CATEGORIES]
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]
    assert len(MetadataCatalog.get("lvis_v1_val").thing_classes) == 1203


def test_objects365_has_ids_without_gaps():
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"objects365_v2_{split}")
        assert list(metadata.thing_dataset_id_to_contiguous_id) == list(range(1, 366))
        assert list(metadata.thing_dataset_id_to_contiguous_id.values()) == list(range(365))
        assert metadata.thing_classes == list(OBJECTS365_V2_NAMES)
    assert len(set(OBJECTS365_V2_NAMES)) == 365
    assert (OBJECTS365_V2_NAMES[0], OBJECTS365_V2_NAMES[364]) == ("Person", "Table Tennis")


def test_the_stuff_maps_of_htc_name_every_pixel_value():
    names = MetadataCatalog.get("coco_2017_train_stuffthing").stuff_classes
    assert (names[0], names[11], names[79 + 10], names[181]) == (
        "person",
        "street sign",
        "toothbrush",
        "wood",
    )
