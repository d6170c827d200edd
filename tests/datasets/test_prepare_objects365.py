import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image

from vitadapter_d2.data.datasets.objects365 import register_objects365
from vitadapter_d2.data.datasets.objects365_categories import OBJECTS365_V2_NAMES
from vitadapter_d2.data.preparing.objects365 import NEVER_RELEASED

SCRIPT = "prepare_objects365.py"
NAMES = {"patch0/objects365_v1_1.jpg": "v1", "patch1/objects365_v2_2.jpg": "v2"}


def write_image(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 128, np.uint8)).save(path)


def annotation_file(root: Path, split: str = "val") -> Path:
    return root / "objects365" / "annotations" / f"zhiyuan_objv2_{split}.json"


def write_release(root: Path, split: str = "val", more: tuple[str, ...] = ()) -> None:
    """Images in two patches, named and annotated as in the release."""
    released = [f"images/{version}/{name}" for name, version in NAMES.items()]
    images, annotations = [], []
    for number, name in enumerate([*released, *(f"images/v1/{name}" for name in more)], start=5):
        images.append(
            {"id": number, "file_name": name, "height": 20, "width": 30, "license": 5, "url": ""}
        )
        annotations.append(
            {
                "id": number * 10,
                "image_id": number,
                "category_id": 365,
                "bbox": [2.5, 3, 10, 12],
                "area": 120,
                "iscrowd": 0,
                "isfake": 0,
                "isreflected": 0,
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": f"{name} " if i == 365 else name, "supercategory": name}
            for i, name in enumerate(OBJECTS365_V2_NAMES, start=1)
        ],
    }
    path = annotation_file(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for name in NAMES:
        write_image(root / "objects365" / split / name)


def prepared(root: Path, split: str = "val") -> dict[str, Any]:
    return json.loads(
        annotation_file(root, split).with_name(f"objects365_v2_{split}.json").read_text()
    )


@pytest.fixture
def registered(tmp_path):
    names = [f"objects365_v2_{split}" for split in ("train", "val")]
    loaders = {name: DatasetCatalog.pop(name) for name in names}
    metadata = {name: MetadataCatalog.pop(name) for name in names}
    register_objects365(str(tmp_path))
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        DatasetCatalog.register(name, loaders[name])
        MetadataCatalog[name] = metadata[name]


def test_from_the_release_to_a_training_sample(run, tmp_path, registered):
    write_release(tmp_path)
    done = run(SCRIPT, "--root", str(tmp_path), "--splits", "val")
    assert done.returncode == 0, done.stderr
    assert "val: 1 files written, 2 images in all" in done.stdout
    assert "note: the published val split has 80000" in done.stderr
    records = DatasetCatalog.get("objects365_v2_val")
    assert [Path(r["file_name"]).parts[-2:] for r in records] == [
        ("patch0", "objects365_v1_1.jpg"),
        ("patch1", "objects365_v2_2.jpg"),
    ]
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    instances = mapper(records[0])["instances"]
    assert instances.gt_classes.tolist() == [364]
    assert instances.gt_boxes.tensor.tolist() == [[2.5, 3, 12.5, 15]]
    metadata = MetadataCatalog.get("objects365_v2_val")
    assert metadata.thing_classes[364] == "Table Tennis"
    assert metadata.evaluator_type == "coco"
    path = tmp_path / "objects365" / "annotations" / "objects365_v2_val.json"
    written = path.stat().st_mtime_ns
    again = run(SCRIPT, "--root", str(tmp_path), "--splits", "val")
    assert "val: 0 files written, 2 images in all" in again.stdout
    assert path.stat().st_mtime_ns == written


def test_images_that_were_never_released_are_left_out(run, tmp_path):
    write_release(tmp_path, "train", more=tuple(sorted(NEVER_RELEASED)))
    assert run(SCRIPT, "--root", str(tmp_path), "--splits", "train").returncode == 0
    content = prepared(tmp_path, "train")
    assert [image["file_name"] for image in content["images"]] == list(NAMES)
    assert [annotation["id"] for annotation in content["annotations"]] == [50, 60]
    assert set(content["annotations"][0]) == {
        "id", "image_id", "category_id", "bbox", "area", "iscrowd",
    }  # fmt: skip


def test_missing_and_wrong_images_are_named_or_left_out(run, tmp_path):
    write_release(tmp_path, more=("patch1/none.jpg", "patch1/small.jpg", "patch1/half.jpg"))
    patch = tmp_path / "objects365" / "val" / "patch1"
    write_image(patch / "small.jpg", (20, 31))
    (patch / "half.jpg").write_bytes(b"\xff\xd8 no image")
    done = run(SCRIPT, "--root", str(tmp_path), "--splits", "val")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "error: 3 of 5 images in" in line and "--leave-out" in line
    assert f"{patch}/none.jpg does not exist" in line
    assert f"{patch}/small.jpg has 31 x 20 pixels, its annotations say 30 x 20" in line
    assert f"{patch}/half.jpg cannot be read" in line
    done = run(SCRIPT, "--root", str(tmp_path), "--splits", "val", "--leave-out")
    assert done.returncode == 0, done.stderr
    assert [image["file_name"] for image in prepared(tmp_path)["images"]] == list(NAMES)
    assert len(prepared(tmp_path)["annotations"]) == 2
    left_out = annotation_file(tmp_path).with_name("left_out_val.txt").read_text()
    assert len(left_out.splitlines()) == 3


def test_complete_patches_are_not_read_again(run, tmp_path):
    write_release(tmp_path, more=("patch1/none.jpg",))
    assert run(SCRIPT, "--root", str(tmp_path), "--splits", "val").returncode == 1
    folder = tmp_path / "objects365" / "val"
    write_image(folder / "patch1" / "none.jpg")
    (folder / "patch0" / "objects365_v1_1.jpg").unlink()  # would be noticed if it were read
    assert run(SCRIPT, "--root", str(tmp_path), "--splits", "val").returncode == 0
    assert len(prepared(tmp_path)["images"]) == 3


def test_another_file_is_refused_in_one_line(run, tmp_path):
    done = run(SCRIPT, "--root", str(tmp_path), "--splits", "val")
    assert done.returncode == 1
    assert done.stderr == f"error: {annotation_file(tmp_path)} does not exist\n"
    write_release(tmp_path)
    path = annotation_file(tmp_path)
    content = json.loads(path.read_text())
    for change, message in (
        (json.dumps(content)[:-40], "cannot be read as JSON"),
        ("[]", "is no annotation file of Objects365"),
        (json.dumps({**content, "categories": content["categories"][1:]}), "names class 1 None"),
        (json.dumps(content).replace('"Sneakers"', '"Shoes"'), "class 2 'Shoes', version 2 names"),
    ):
        path.write_text(change)
        done = run(SCRIPT, "--root", str(tmp_path), "--splits", "val")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert message in line and str(path) in line
