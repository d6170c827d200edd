from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image

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
