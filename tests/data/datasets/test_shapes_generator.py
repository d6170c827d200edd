import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from vitadapter_d2.data.datasets import ShapesSpec, generate
from vitadapter_d2.data.datasets.shapes_categories import SHAPES_STUFF, SHAPES_THINGS
from vitadapter_d2.data.datasets.shapes_generator import is_complete
from vitadapter_d2.data.datasets.shapes_render import _OUTLINES, _TEXTURES, draw_scene

SMALL = ShapesSpec(train=3, val=2, size=64, seed=5)
SPLITS = ("train", "val")
THING_IDS = set(range(1, 9))
STUFF_IDS = {101, 102, 103, 104}


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(int)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def test_same_parameters_give_the_same_bytes_in_any_number_of_processes(tmp_path):
    assert generate(tmp_path / "a", SMALL, workers=0)
    assert generate(tmp_path / "b", SMALL, workers=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_every_image_depends_on_seed_and_split(tmp_path):
    generate(tmp_path / "a", SMALL, workers=0)
    generate(tmp_path / "b", ShapesSpec(train=3, val=2, size=64, seed=6), workers=0)
    images = [
        (tmp_path / root / "images" / split / f"{number:06d}.png").read_bytes()
        for root in "ab"
        for split in SPLITS
        for number in (1, 2)
    ]
    assert len(set(images)) == 8


def test_a_complete_set_is_left_alone_and_anything_else_is_made_anew(tmp_path):
    root = tmp_path / "shapes"
    generate(root, SMALL, workers=0)
    before = files_of(root)
    assert not generate(root, SMALL, workers=0)
    (root / "semantic_train" / "000002.png").unlink()
    assert not is_complete(root, SMALL)
    assert generate(root, SMALL, workers=0)
    assert files_of(root) == before
    other = ShapesSpec(train=2, val=2, size=64, seed=5)
    assert generate(root, other, workers=0)
    assert len(list((root / "images" / "train").iterdir())) == 2


def test_leftovers_of_a_stopped_run_are_replaced(tmp_path):
    (tmp_path / ".shapes.partial" / "images").mkdir(parents=True)
    generate(tmp_path / "shapes", SMALL, workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]


def test_a_folder_with_something_else_is_never_removed(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="no generated shapes data set"):
        generate(tmp_path, SMALL, workers=0)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("name", "value"),
    [("train", 0), ("val", -1), ("size", 63), ("seed", -1), ("max_things", 1), ("level", "odd")],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} .*{value}"):
        ShapesSpec(**{name: value})


@pytest.mark.parametrize("split", SPLITS)
def test_segments_cover_the_image_and_agree_with_the_panoptic_png(tiny_root, split):
    content = read_json(tiny_root / "annotations" / f"panoptic_{split}.json")
    for annotation in content["annotations"]:
        ids = read_ids(tiny_root / f"panoptic_{split}" / annotation["file_name"])
        segments = {s["id"]: s for s in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        assert max(segments) >= 65536  # all three bytes are in use
        for number, segment in segments.items():
            y, x = np.nonzero(ids == number)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert segment["area"] == len(x)
            assert segment["bbox"] == box


@pytest.mark.parametrize("split", SPLITS)
def test_semantic_png_holds_the_contiguous_class_of_each_segment(tiny_root, split):
    content = read_json(tiny_root / "annotations" / f"panoptic_{split}.json")
    contiguous = {c["id"]: i for i, c in enumerate(content["categories"])}
    assert [c["isthing"] for c in content["categories"]] == [1] * 8 + [0] * 4
    for annotation in content["annotations"]:
        name = annotation["file_name"]
        ids = read_ids(tiny_root / f"panoptic_{split}" / name)
        semantic = np.asarray(Image.open(tiny_root / f"semantic_{split}" / name))
        assert semantic.dtype == np.uint8
        for segment in annotation["segments_info"]:
            assert np.all(semantic[ids == segment["id"]] == contiguous[segment["category_id"]])


@pytest.mark.parametrize("split", SPLITS)
def test_instances_are_the_things_of_the_panoptic_annotation(tiny_root, split):
    instances = read_json(tiny_root / "annotations" / f"instances_{split}.json")
    panoptic = read_json(tiny_root / "annotations" / f"panoptic_{split}.json")
    assert instances["images"] == panoptic["images"]
    assert len({a["id"] for a in instances["annotations"]}) == len(instances["annotations"])
    for annotation in panoptic["annotations"]:
        ids = read_ids(tiny_root / f"panoptic_{split}" / annotation["file_name"])
        things = [s for s in annotation["segments_info"] if s["category_id"] in THING_IDS]
        objects = [a for a in instances["annotations"] if a["image_id"] == annotation["image_id"]]
        for thing, item in zip(things, objects, strict=True):
            assert np.array_equal(coco_mask.decode(item["segmentation"]), ids == thing["id"])
            for key in ("category_id", "area", "bbox", "iscrowd"):
                assert item[key] == thing[key]


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_occurs_and_every_thing_is_visible(tiny_root, split):
    content = read_json(tiny_root / "annotations" / f"panoptic_{split}.json")
    segments = [a["segments_info"] for a in content["annotations"]]
    assert {s["category_id"] for image in segments for s in image} == THING_IDS | STUFF_IDS
    for image in segments:
        areas = [s["area"] for s in image if s["category_id"] in THING_IDS]
        assert 2 <= len(areas) <= 7
        assert min(areas) >= 80


def test_hard_level_breaks_the_link_between_class_and_pattern():
    """On the easy level a disc is never inked; on the hard one most discs are."""

    def spread_inside_discs(level: str) -> list[float]:
        spreads = []
        for index in range(0, 80, 8):  # the first thing of these images is a disc
            scene = draw_scene(np.random.default_rng(index), index, 96, 2, level)
            number = next(i for i, c in enumerate(scene.categories) if c.name == "plain disc")
            pixels = scene.image[scene.owner == number].astype(float)
            spreads.append(float(np.median(np.abs(pixels - np.median(pixels, axis=0)))))
        return spreads

    assert max(spread_inside_discs("easy")) < 3
    assert np.mean(np.array(spread_inside_discs("hard")) > 6) > 0.3


def test_colour_does_not_depend_on_the_class():
    hues: dict[str, list[int]] = {}
    for index in range(160):
        scene = draw_scene(np.random.default_rng([1, index]), index, 64, 4, "easy")
        for number, category in enumerate(scene.categories):
            if hasattr(category, "outline"):
                mean = scene.image[scene.owner == number].mean(axis=0)
                hues.setdefault(category.name, []).append(int(mean.argmax()))
    for name, dominant in hues.items():
        counts = Counter(dominant)
        assert min(counts[c] for c in range(3)) >= 0.15 * len(dominant), name


def test_every_thing_class_has_its_own_outline_and_no_two_stuff_classes_share_a_texture():
    assert sorted(c.outline for c in SHAPES_THINGS) == sorted(_OUTLINES)
    assert sorted(c.texture for c in SHAPES_STUFF) == sorted(_TEXTURES)
    assert len({(c.pattern, c.ink) for c in SHAPES_THINGS}) == 7  # disc and ring are both plain
