from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask


def write_png(path: Path, array: np.ndarray) -> str:
    Image.fromarray(array).save(path)
    return str(path)


@pytest.fixture
def record(tmp_path) -> dict:
    """A 20 x 30 image: segment 300 (class 2), a crowd 7 (class 5), 70000 (class 0), void."""
    rng = np.random.default_rng(0)
    ids = np.zeros((20, 30), np.int32)
    ids[2:8, 3:13], ids[10:15, 20:28], ids[16:19, 1:5] = 300, 7, 70000
    classes = np.full((20, 30), 255, np.uint8)
    for number, category in ((300, 2), (7, 5), (70000, 0)):
        classes[ids == number] = category
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return {
        "file_name": write_png(tmp_path / "image.png", image),
        "image_id": 4,
        "pan_seg_file_name": write_png(tmp_path / "panoptic.png", rgb),
        "sem_seg_file_name": write_png(tmp_path / "semantic.png", classes),
        "segments_info": [
            {"id": 300, "category_id": 2, "iscrowd": 0},
            {"id": 7, "category_id": 5, "iscrowd": 1},
            {"id": 70000, "category_id": 0, "iscrowd": 0},
        ],
        "annotations": [
            {
                "category_id": 2,
                "iscrowd": 0,
                "segmentation": [[3.0, 2.0, 13.0, 2.0, 13.0, 8.0, 3.0, 8.0]],
            },
            {"category_id": 5, "iscrowd": 1, "segmentation": encode(ids == 7)},
            {"category_id": 0, "iscrowd": 0, "segmentation": encode(ids == 70000)},
        ],
    }


def encode(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
