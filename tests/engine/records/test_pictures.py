from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image

from vitadapter_d2.engine.records.pictures import PictureWriter


def test_only_what_the_gallery_shows_is_held(tiny_root, tmp_path):
    writer = PictureWriter("tiny_val_panoptic", str(tmp_path), max_images=3, gallery_rows=2)
    for record in DatasetCatalog.get("tiny_val_panoptic"):
        labels = torch.zeros(2, record["height"], record["width"])
        writer.process([record], [{"sem_seg": labels}])
    assert len(writer.rows) == 2
    writer.evaluate()
    names = [Path(r["file_name"]).stem for r in DatasetCatalog.get("tiny_val_panoptic")[:3]]
    assert {file.name for file in tmp_path.iterdir()} == {
        "gallery.png",
        *(f"{name}.png" for name in names),
    }
    gallery = read_image(str(tmp_path / "gallery.png"), "RGB")
    assert np.array_equal(gallery[: len(writer.rows[0])], writer.rows[0])
    writer.reset()
    assert not writer.rows


@pytest.fixture
def same_names(tmp_path):
    """Four images, three of which are called ``1``, and one ``gallery``."""
    files = ["a/1.png", "b/1.png", "c/b/1.png", "a/gallery.png"]
    records = []
    for number, file in enumerate(files):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (60 * number, 0, 0)).save(path)
        records.append({"file_name": str(path), "image_id": number, "height": 8, "width": 12})
    DatasetCatalog.register("same_names", lambda: records)
    MetadataCatalog.get("same_names").set(thing_classes=["x"], stuff_classes=["x", "y"])
    yield records
    DatasetCatalog.remove("same_names")
    MetadataCatalog.remove("same_names")


def test_images_of_one_name_have_a_picture_each(same_names, tmp_path):
    writer = PictureWriter("same_names", str(tmp_path / "out"))
    for record in same_names:
        writer.process([record], [{"sem_seg": torch.zeros(2, 8, 12)}])
    writer.evaluate()
    pictures = {"1.png", "b_1.png", "b_1_2.png", "a_gallery.png"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == pictures | {"gallery.png"}
    reds = {read_image(str(tmp_path / "out" / name), "RGB")[2, 2, 0] for name in pictures}
    assert len(reds) == 4
