import json
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from vitadapter_d2.data.datasets import datasets_root, register_all
from vitadapter_d2.data.datasets.registration import (
    Category,
    PanopticPaths,
    load_panoptic_records,
    register_once,
)
from vitadapter_d2.data.datasets.shapes import SHAPES_CATEGORIES

PANOPTIC_COUNTS = [  # name, thing names, all names, thing ids
    ("shapes_train_panoptic", 8, 12, 8),
    ("shapes_val_panoptic", 8, 12, 8),
    ("coco_2017_train_panoptic_with_sem_seg", 80, 133, 80),
    ("coco_2017_val_panoptic_with_sem_seg", 80, 133, 80),
    ("ade20k_panoptic_train", 150, 150, 100),
    ("ade20k_panoptic_val", 150, 150, 100),
]


@pytest.mark.parametrize(("name", "thing_names", "all_names", "thing_ids"), PANOPTIC_COUNTS)
def test_panoptic_metadata_counts(name, thing_names, all_names, thing_ids):
    meta = MetadataCatalog.get(name)
    assert len(meta.thing_classes) == len(meta.thing_colors) == thing_names
    assert len(meta.stuff_classes) == len(meta.stuff_colors) == all_names
    assert len(meta.thing_dataset_id_to_contiguous_id) == thing_ids
    assert sorted(meta.stuff_dataset_id_to_contiguous_id.values()) == list(range(all_names))
    for key, value in meta.thing_dataset_id_to_contiguous_id.items():
        assert meta.stuff_dataset_id_to_contiguous_id[key] == value
    assert (meta.ignore_label, meta.label_divisor) == (255, 1000)


def test_coco_classes_are_in_the_published_order():
    meta = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    assert meta.stuff_dataset_id_to_contiguous_id[1] == 0
    assert meta.stuff_dataset_id_to_contiguous_id[90] == 79
    assert meta.stuff_dataset_id_to_contiguous_id[92] == 80
    assert meta.stuff_dataset_id_to_contiguous_id[200] == 132
    assert (meta.stuff_classes[0], meta.stuff_colors[0]) == ("person", [220, 20, 60])
    assert (meta.stuff_classes[79], meta.stuff_classes[80]) == ("toothbrush", "banner")
    assert (meta.stuff_classes[132], meta.stuff_colors[132]) == (
        "rug-merged",
        [250, 141, 255],
    )
    assert meta.evaluator_type == "coco_panoptic_seg"


def test_ade20k_classes_are_in_the_published_order():
    panoptic = MetadataCatalog.get("ade20k_panoptic_val")
    assert (panoptic.stuff_classes[0], panoptic.stuff_colors[0]) == ("wall", [120, 120, 120])
    assert (panoptic.stuff_classes[149], panoptic.stuff_colors[149]) == ("flag", [92, 0, 255])
    assert panoptic.stuff_colors[6] == panoptic.stuff_colors[48] == [140, 140, 140]
    assert 7 in panoptic.thing_dataset_id_to_contiguous_id
    assert 0 not in panoptic.thing_dataset_id_to_contiguous_id
    instance = MetadataCatalog.get("ade20k_instance_val")
    assert len(instance.thing_classes) == len(instance.thing_colors) == 100
    assert instance.thing_classes[:2] == ["bed", "windowpane"]
    assert instance.thing_dataset_id_to_contiguous_id[7] == 0
    assert instance.thing_dataset_id_to_contiguous_id[149] == 99
    semantic = MetadataCatalog.get("ade20k_sem_seg_val")
    assert semantic.stuff_colors == panoptic.stuff_colors
    assert [n.strip() for n in semantic.stuff_classes] == panoptic.stuff_classes


def test_an_incomplete_ade20k_is_refused(tmp_path, monkeypatch):
    semantic = MetadataCatalog.get("ade20k_sem_seg_val")
    for key in ("image_root", "sem_seg_root"):
        (tmp_path / key).mkdir()
        monkeypatch.setitem(semantic.__dict__, key, str(tmp_path / key))
    register_all("elsewhere")
    for name in ("a", "b"):
        (tmp_path / "image_root" / f"{name}.jpg").touch()
    (tmp_path / "sem_seg_root" / "a.png").touch()
    with pytest.raises(FileNotFoundError, match=r"b\.png does not exist, the label map of"):
        DatasetCatalog.get("ade20k_sem_seg_val")
    (tmp_path / "sem_seg_root" / "b.png").touch()
    assert len(DatasetCatalog.get("ade20k_sem_seg_val")) == 2
    monkeypatch.undo()
    register_all("elsewhere")


def test_registering_again_changes_nothing():
    before = set(DatasetCatalog.list())
    metadata = {name: MetadataCatalog.get(name).as_dict() for name in before}
    register_all("elsewhere")
    assert set(DatasetCatalog.list()) == before
    assert {name: MetadataCatalog.get(name).as_dict() for name in before} == metadata


def test_a_name_of_another_package_is_completed_but_not_replaced():
    DatasetCatalog.register("registered_elsewhere", lambda: [{"file_name": "theirs"}])
    MetadataCatalog.get("registered_elsewhere").stuff_classes = ["theirs"]
    try:
        register_once("registered_elsewhere", list, stuff_classes=["ours"], ignore_label=255)
        assert DatasetCatalog.get("registered_elsewhere") == [{"file_name": "theirs"}]
        meta = MetadataCatalog.get("registered_elsewhere")
        assert (meta.stuff_classes, meta.ignore_label) == (["theirs"], 255)
    finally:
        DatasetCatalog.remove("registered_elsewhere")
        MetadataCatalog.remove("registered_elsewhere")


def test_import_reads_the_root_from_the_environment_but_nothing_from_disk(tmp_path):
    code = (
        "import vitadapter_d2.data\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "print(MetadataCatalog.get('shapes_val_panoptic').panoptic_json)\n"
        "DatasetCatalog.get('shapes_val_panoptic')\n"
    )
    root = str(tmp_path / "missing")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DETECTRON2_DATASETS": root},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = os.path.join(root, "shapes", "annotations", "panoptic_val.json")
    assert done.stdout.strip() == expected
    assert f"FileNotFoundError: {expected} does not exist" in done.stderr


def test_the_default_root_is_datasets(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets_root() == "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets_root() == os.path.expanduser("~/data")


def test_records_of_a_panoptic_set_have_contiguous_ids_and_existing_files(tiny_root):
    records = DatasetCatalog.get("tiny_train_panoptic")
    assert len(records) == 8
    for record in records:
        assert (record["height"], record["width"]) == (96, 96)
        for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
            assert os.path.isfile(record[key])
        assert {s["category_id"] for s in record["segments_info"]} <= set(range(12))


def test_an_unknown_category_is_named(tiny_root):
    annotations = tiny_root / "annotations"
    paths = PanopticPaths("", str(annotations / "panoptic_val.json"), "", "", "")
    with pytest.raises(ValueError, match="panoptic_val.json has no key, image or category"):
        load_panoptic_records(paths, [Category(1, "plain disc", (0, 0, 0), True)])


def test_an_image_id_that_occurs_twice_is_refused(tiny_root, tmp_path):
    content = json.loads((tiny_root / "annotations" / "panoptic_val.json").read_text())
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = content["images"][0]["id"]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="panoptic.json cannot be used: 1 x image id that occurs"):
        load_panoptic_records(PanopticPaths("", str(path), "", "", ""), SHAPES_CATEGORIES)
