"""The prepare scripts, run as a user runs them, on tiny trees of the real layouts."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from vitadapter_d2.data import PanopticMapper
from vitadapter_d2.data.coco_format import ids_to_rgb
from vitadapter_d2.data.datasets.ade20k import ADE20K_PANOPTIC_CATEGORIES, ade20k_paths
from vitadapter_d2.data.datasets.coco import COCO_PANOPTIC_CATEGORIES, coco_panoptic_paths
from vitadapter_d2.data.datasets.registration import load_panoptic_records


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    ids = np.zeros((6, 8), np.int32)
    ids[:2], ids[3:, 4:] = 70001, 300
    write_png(tmp_path / "coco/panoptic_val2017/000000000139.png", ids_to_rgb(ids))
    segments = [{"id": 70001, "category_id": 200}, {"id": 300, "category_id": 90}]
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 6, "width": 8}],
        "annotations": [
            {"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}
        ],
    }
    path = tmp_path / "coco/annotations/panoptic_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return tmp_path


def test_coco_semantic_maps_hold_contiguous_ids(run, coco_root):
    arguments = ("--root", str(coco_root), "--splits", "val")
    done = run("prepare_coco_panoptic_semantic.py", *arguments)
    assert done.returncode == 0, done.stderr
    target = coco_root / "coco/panoptic_semseg_val2017/000000000139.png"
    semantic = read(target)
    assert semantic.dtype == np.uint8
    assert np.all(semantic[:2] == 132) and np.all(semantic[3:, 4:] == 79)
    assert (semantic == 255).sum() == 48 - 16 - 12
    written = target.stat().st_mtime_ns
    again = run("prepare_coco_panoptic_semantic.py", *arguments)
    assert "0 files written" in again.stdout
    assert target.stat().st_mtime_ns == written
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    records = load_panoptic_records(
        coco_panoptic_paths(str(coco_root), "val"), COCO_PANOPTIC_CATEGORIES
    )
    assert records[0]["file_name"].endswith(os.path.join("val2017", "000000000139.jpg"))
    assert records[0]["sem_seg_file_name"] == str(target)


def test_coco_errors_are_one_line(run, coco_root):
    done = run("prepare_coco_panoptic_semantic.py", "--root", str(coco_root), "--splits", "train")
    assert done.returncode == 1
    assert "panoptic_train2017.json" in done.stderr.splitlines()[-1]
    path = coco_root / "coco/annotations/panoptic_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 90', '"category_id": 12'))
    done = run("prepare_coco_panoptic_semantic.py", "--root", str(coco_root), "--splits", "val")
    assert done.returncode == 1
    assert "000000000139.png has category 12" in done.stderr
    path.write_text(path.read_text().replace('"id": 300', '"id": 301'))
    path.write_text(path.read_text().replace('"category_id": 12', '"category_id": 90'))
    done = run("prepare_coco_panoptic_semantic.py", "--root", str(coco_root), "--splits", "val")
    assert done.returncode == 1
    assert "000000000139.png has segment id 300" in done.stderr
    assert not list((coco_root / "coco/panoptic_semseg_val2017").iterdir())


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def test_a_damaged_coco_is_named_in_one_line(run, coco_root):
    arguments = ("--root", str(coco_root), "--splits", "val")
    annotations = coco_root / "coco/annotations/panoptic_val2017.json"
    whole = annotations.read_text()
    for damage, message in (
        (whole[: len(whole) // 2], "cannot be read as JSON"),
        (whole.replace("segments_info", "segments"), "annotation without segments_info"),
        ("[]", "a list, not an object"),
    ):
        annotations.write_text(damage)
        done = run("prepare_coco_panoptic_semantic.py", *arguments)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {annotations}") and message in line
    annotations.write_text(whole)
    picture = coco_root / "coco/panoptic_val2017/000000000139.png"
    cut(picture)
    done = run("prepare_coco_panoptic_semantic.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {picture} cannot be read: ")


@pytest.fixture
def ade20k_root(tmp_path: Path) -> Path:
    """One image per split: wall (1), floor (4), a bed (8) in two instances, other (0)."""
    semantic = np.zeros((6, 8), np.uint8)
    semantic[:3], semantic[3:, :5] = 1, 4
    semantic[1:5, 1:4] = 8
    instances = np.zeros((6, 8, 3), np.uint8)
    instances[1:5, 1:3] = (1, 1, 0)
    instances[0:5, 3] = (1, 2, 0)  # overlaps the wall, as in the real annotations
    rgb = np.zeros((6, 8, 3), np.uint8)
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        base = tmp_path / "ADEChallengeData2016"
        write_png(base / "annotations" / folder / f"{name}.png", semantic)
        write_png(base / "annotations_instance" / folder / f"{name}.png", instances)
        (base / "images" / folder).mkdir(parents=True)
        Image.fromarray(rgb).save(base / "images" / folder / f"{name}.jpg")
    return tmp_path


def test_ade20k_labels_are_lowered_by_one(run, ade20k_root):
    done = run("prepare_ade20k_sem_seg.py", "--root", str(ade20k_root))
    assert done.returncode == 0, done.stderr
    base = ade20k_root / "ADEChallengeData2016"
    for file in ("training/ADE_train_00000001.png", "validation/ADE_val_00000001.png"):
        raw, converted = (
            read(base / "annotations" / file),
            read(base / "annotations_detectron2" / file),
        )
        assert np.all(converted[raw == 0] == 255)
        assert np.array_equal(converted[raw > 0], raw[raw > 0] - 1)
    again = run("prepare_ade20k_sem_seg.py", "--root", str(ade20k_root))
    assert again.stdout.count(": 0 files written") == 2


def test_ade20k_label_out_of_range_is_named(run, ade20k_root):
    base = ade20k_root / "ADEChallengeData2016"
    write_png(base / "annotations/training/bad.png", np.full((4, 4), 151, np.uint8))
    done = run("prepare_ade20k_sem_seg.py", "--root", str(ade20k_root))
    assert done.returncode == 1
    assert "bad.png has value 151, legal ones are 0 to 150" in done.stderr


def test_ade20k_panoptic_pastes_things_over_stuff(run, ade20k_root):
    assert run("prepare_ade20k_sem_seg.py", "--root", str(ade20k_root)).returncode == 0
    done = run("prepare_ade20k_panoptic.py", "--root", str(ade20k_root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 1 files written, 1 images in all") == 2
    paths = ade20k_paths(str(ade20k_root), "val")
    record = load_panoptic_records(paths, ADE20K_PANOPTIC_CATEGORIES)[0]
    found = [(s["category_id"], s["area"]) for s in record["segments_info"]]
    assert found == [(0, 18), (3, 9), (7, 8), (7, 5)]  # stuff as before the things were pasted
    output = PanopticMapper([], num_classes=150)(record)
    assert output["instances"].gt_classes.tolist() == [0, 3, 7, 7]
    assert output["instances"].gt_masks.tensor.sum((1, 2)).tolist() == [17, 9, 8, 5]
    again = run("prepare_ade20k_panoptic.py", "--root", str(ade20k_root))
    assert again.stdout.count(": 0 files written, 1 images in all") == 2


def test_ade20k_instances_fit_the_registered_metadata(run, ade20k_root):
    assert run("prepare_ade20k_panoptic.py", "--root", str(ade20k_root)).returncode == 0
    path = ade20k_root / "ADEChallengeData2016/ade20k_instance_val.json"
    content = json.loads(path.read_text())
    meta = MetadataCatalog.get("ade20k_instance_val")
    assert [c["name"] for c in content["categories"]] == meta.thing_classes
    ids = [c["id"] for c in content["categories"]]
    assert ids == list(meta.thing_dataset_id_to_contiguous_id)
    assert [a["bbox"] for a in content["annotations"]] == [[1, 1, 2, 4], [3, 0, 1, 5]]
    assert [a["category_id"] for a in content["annotations"]] == [7, 7]
    assert [a["id"] for a in content["annotations"]] == [1, 2]


@pytest.mark.parametrize("folder", ["annotations", "annotations_instance"])
def test_a_damaged_ade20k_is_named_in_one_line(run, ade20k_root, folder):
    picture = ade20k_root / "ADEChallengeData2016" / folder / "training/ADE_train_00000001.png"
    cut(picture)
    done = run("prepare_ade20k_panoptic.py", "--root", str(ade20k_root))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {picture} ")
    picture.unlink()
    if folder == "annotations_instance":
        done = run("prepare_ade20k_panoptic.py", "--root", str(ade20k_root))
        assert done.stderr.splitlines()[-1] == f"error: {picture} does not exist"


def test_make_shapes_makes_a_set_once_and_names_a_bad_value(run, tmp_path):
    small = ("--root", str(tmp_path / "s"), "--train", "3", "--val", "2", "--size", "64")
    done = run("make_shapes.py", *small)
    assert done.returncode == 0, done.stderr
    assert "made in" in done.stdout
    assert "shapes train: 100%" in done.stderr
    assert "already complete" in run("make_shapes.py", *small).stdout
    assert len(list((tmp_path / "s/images/train").iterdir())) == 3
    done = run("make_shapes.py", "--root", str(tmp_path / "t"), "--level", "odd")
    assert done.returncode == 2
    assert "level must be one of easy, hard, got 'odd'" in done.stderr
    assert not (tmp_path / "t").exists()
