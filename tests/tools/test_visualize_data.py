import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from own_folders import as_boxes, coco, label_maps, make_shapes, roboflow

from vitadapter_d2.data.own import OwnSource
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.own.data import apply_own_data, find_own_data
from vitadapter_d2.engine.visualize import as_record, draw_samples

TOOL = Path(__file__).resolve().parents[2] / "tools" / "visualize_data.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("own") / "shapes", train=3, val=1)


@pytest.fixture
def visualize(monkeypatch, tmp_path):
    """Runs the tool in this process; returns its status and the output folder."""

    def run(config, *flags):
        output = tmp_path / "drawn"
        told = ["--config-file", f"shapes/{config}", "--output", output, *flags]
        monkeypatch.setattr(sys, "argv", ["visualize_data.py", *map(str, told)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name="__main__")
        return stop.value.code, output

    return run


CASES = {
    "mask_rcnn_vit_adapter_shapes": roboflow,
    "dino_vit_adapter_shapes": lambda shapes, root: coco(shapes, root, as_boxes),
    "upernet_vit_adapter_shapes": label_maps,
    "mask2former_vit_adapter_quickstart": lambda s, root: coco(s, root, kinds=("panoptic",)),
}


@pytest.mark.parametrize("config", CASES)
def test_samples_of_every_kind_are_drawn(config, visualize, shapes, tmp_path, capsys):
    folder = CASES[config](shapes, tmp_path / "mine")
    status, output = visualize(config, "--data", folder, "--samples", 2, "--before")
    assert status == 0
    drawn = sorted(path.name for path in output.glob("*.png"))
    assert len(drawn) == 3 and drawn[-1] == "gallery.png"
    picture = cv2.imread(str(output / drawn[0]))
    height, width = picture.shape[:2]
    assert height >= 384 and width > 1.9 * height  # raw and augmented
    printed = capsys.readouterr().out
    assert "bolt" in printed and "2 training samples drawn" in printed


def test_the_same_seed_draws_the_same_and_targets_are_drawn(tiny_root, tmp_path):
    cfg = load_config("shapes/mask_rcnn_vit_adapter_shapes")
    cfg.dataloader.train.dataset.names = "tiny_train"
    first = draw_samples(cfg, tmp_path / "a", 2, seed=1)
    again = draw_samples(cfg, tmp_path / "b", 2, seed=1)
    assert [p.name for p in first] == [p.name for p in again]
    mapped = {tuple(cv2.imread(str(p)).shape) for p in first}
    assert all(shape[0] >= 384 for shape in mapped)
    other = draw_samples(cfg, tmp_path / "c", 8, seed=2)
    assert len({p.stem[4:] for p in other}) == 8  # every image once before one comes twice


def test_the_sample_is_what_the_mapper_gave(tiny_root):
    cfg = load_config("shapes/mask2former_vit_adapter_quickstart")
    cfg.dataloader.train.dataset.names = "tiny_train_panoptic"
    records = instantiate(cfg.dataloader.train.dataset)
    sample = instantiate(cfg.dataloader.train.mapper)(records[0])
    record = as_record(sample, MetadataCatalog.get("tiny_train_panoptic"))
    classes = np.full(record["pan_seg"].shape, 255)
    for info in record["segments_info"]:
        classes[record["pan_seg"] == info["id"]] = info["category_id"]
    np.testing.assert_array_equal(classes, sample["sem_seg"].numpy())
    assert {info["isthing"] for info in record["segments_info"]} == {True, False}


def test_polygons_and_masks_become_the_same_objects(tiny_root):
    cfg = load_config("shapes/mask_rcnn_vit_adapter_shapes")
    cfg.dataloader.train.dataset.names = "tiny_train"
    records = instantiate(cfg.dataloader.train.dataset)
    sample = instantiate(cfg.dataloader.train.mapper)(records[0])
    objects = as_record(sample, MetadataCatalog.get("tiny_train"))["annotations"]
    boxes = torch.tensor([one["bbox"] for one in objects])
    torch.testing.assert_close(boxes, sample["instances"].gt_boxes.tensor)
    assert [o["category_id"] for o in objects] == sample["instances"].gt_classes.tolist()
    assert all("counts" in one["segmentation"] for one in objects)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "0"], "at least 1, got 0"),
        (["--data", "/nowhere"], "there is no folder /nowhere"),
        (["dataloader.train.mapper.image_formatt=RGB"], "image_format"),
    ],
)
def test_what_is_wrong_is_one_sentence(flags, message, visualize, tiny_root, monkeypatch, capsys):
    status, output = visualize("mask_rcnn_vit_adapter_shapes", *flags)
    assert status == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message in line
    assert not list(output.glob("*.png"))


def test_a_damaged_image_is_named_or_skipped(shapes, tmp_path):
    folder = roboflow(shapes, tmp_path / "mine")
    cfg = load_config("shapes/mask_rcnn_vit_adapter_shapes", [f"train.output_dir={tmp_path}"])
    apply_own_data(cfg, find_own_data(cfg, OwnSource(folder)))
    image = sorted((folder / "train").glob("*.png"))[0]
    image.write_bytes(image.read_bytes()[:500])  # its header is whole
    with pytest.raises(ValueError, match=f"damaged image .*{image.name}"):
        draw_samples(cfg, tmp_path / "drawn", 3)
    cfg.dataloader.train.on_error = "skip"
    assert len(draw_samples(cfg, tmp_path / "drawn", 3)) == 2
