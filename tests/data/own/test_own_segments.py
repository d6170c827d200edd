"""Label maps and panoptic segments."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from own_folders import NAMES, STUFF, THINGS, coco, label_maps, read, write
from PIL import Image

from vitadapter_d2.data.coco_format import rgb_to_ids
from vitadapter_d2.data.own import OwnSource, prepare_own_data


def prepare(folder, kind="semantic", evaluated=()):
    out = folder.parent / "out"
    return prepare_own_data(OwnSource(folder), kind, out, evaluated=evaluated)


@pytest.fixture
def labels(shapes, tmp_path):
    return label_maps(shapes, tmp_path / "mine")


@pytest.fixture
def panoptic(shapes, tmp_path):
    return coco(shapes, tmp_path / "mine", kinds=("panoptic",))


def first_label(root: Path) -> Path:
    return sorted((root / "labels/train").iterdir())[0]


def test_names_are_those_of_the_file(labels):
    own = prepare(labels)
    assert own.classes.names == NAMES
    metadata = MetadataCatalog.get(own.register()["val"])
    assert metadata.stuff_classes == NAMES and metadata.ignore_label == 255


def test_without_the_file_values_name_the_classes(labels):
    (labels / "classes.txt").unlink()
    assert prepare(labels).classes.names == [f"class {number}" for number in range(7)]


@pytest.mark.parametrize("values", [[0, 255], [0, 38, 75], [1, 2]])
def test_values_with_gaps_need_the_file(labels, values):
    (labels / "classes.txt").unlink()
    for part in ("train", "val"):
        for file in (labels / "labels" / part).iterdir():
            old = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(file), np.array(values, np.uint8)[old % len(values)])
    with pytest.raises(ValueError, match=r"without .*classes.txt.*255 means ignored"):
        prepare(labels)


def test_masks_of_0_and_255_are_refused_although_their_classes_have_names(labels):
    (labels / "classes.txt").write_text("background\nroad\n")
    for file in (labels / "labels").glob("*/*"):
        old = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.uint8([0, 255])[old % 2])
    with pytest.raises(ValueError, match=r"no values but 0, 255, .* save masks .* as 0 and 1"):
        prepare(labels)


def test_named_classes_that_do_not_occur_are_told(labels):
    (labels / "classes.txt").write_text("\n".join([*NAMES, "door 100%", "gate"]))
    (note,) = prepare(labels).notes
    assert note.endswith("classes.txt names classes that do not occur in 9 label maps: "
                         "door 100%, gate")  # fmt: skip


def test_a_value_without_a_name_is_refused(labels):
    cv2.imwrite(str(first_label(labels)), np.full((64, 64), 9, np.uint8))
    with pytest.raises(ValueError, match=r"000001.png has class 9, expected one of 0 to 6"):
        prepare(labels)


def test_a_label_map_of_another_size_is_refused(labels):
    cv2.imwrite(str(first_label(labels)), np.zeros((32, 64), np.uint8))
    with pytest.raises(ValueError, match=r"000001.png is 64 x 32, its image 64 x 64"):
        prepare(labels)


def test_colours_are_refused_palettes_are_numbers(labels):
    file = first_label(labels)
    picture = Image.fromarray(np.full((64, 64), 2, np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(file)
    assert prepare(labels).classes.names == NAMES
    cv2.imwrite(str(file), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="must have one channel"):
        prepare(labels)


def test_jpegs_are_refused(labels):
    file = first_label(labels)
    file.rename(file.with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"000001.jpg is a JPEG, which changes class numbers"):
        prepare(labels)


@pytest.mark.parametrize(
    ("text", "message"), [("", "0 lines"), ("a\n\nb\n", "line 2"), ("a\na\n", "have the name 'a'")]
)
def test_wrong_names_are_refused(labels, text, message):
    (labels / "classes.txt").write_text(text)
    for file in (labels / "labels").glob("*/*"):
        cv2.imwrite(str(file), np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match=message):
        prepare(labels)


def test_panoptic_classes_are_things_first(panoptic):
    for part in ("train", "val"):  # the file has them in another order
        file = panoptic / f"annotations/panoptic_{part}2017.json"
        content = read(file)
        for category in content["categories"]:
            if category["id"] == 101:
                category["id"] = 1
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] = segment["category_id"] % 101 or 1
        content["categories"].reverse()
        write(file, content)
    own = prepare(panoptic, "panoptic")
    assert own.classes.names == NAMES
    metadata = MetadataCatalog.get(own.register()["val"])
    assert metadata.thing_classes == [*THINGS.values()]
    assert metadata.stuff_dataset_id_to_contiguous_id[1] == 5
    record = DatasetCatalog.get(own.register()["train"])[0]
    assert {s["isthing"] for s in record["segments_info"]} == {True, False}
    assert "sem_seg_file_name" not in record


def test_evaluators_get_objects_and_label_maps_of_the_segments(panoptic, shapes):
    own = prepare(panoptic, "panoptic", evaluated=("instances", "semantic"))
    val = own.parts["val"]
    objects = read(Path(val.json_file))
    expected = read(shapes / "annotations/instances_val.json")["annotations"]
    assert [o["bbox"] for o in objects["annotations"]] == [o["bbox"] for o in expected]
    assert [o["segmentation"] for o in objects["annotations"]] == [
        o["segmentation"] for o in expected
    ]
    record = DatasetCatalog.get(own.register()["val"])[0]
    labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    assert labels.shape == (64, 64) and labels.max() < 7
    assert not own.parts["train"].json_file


def test_panoptic_segments_serve_semantic_and_instance_models(panoptic, shapes):
    semantic = prepare(panoptic, "semantic")
    image, label = semantic.parts["train"].pairs[0]
    assert Path(image).is_file() and semantic.classes.names == NAMES
    old = cv2.imread(str(shapes / "semantic_train" / Path(label).name), cv2.IMREAD_UNCHANGED)
    new = cv2.imread(label, cv2.IMREAD_UNCHANGED)
    pairs = set(zip(old.ravel().tolist(), new.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(old))  # one new class for each old one
    instances = prepare(panoptic, "instances")
    assert instances.classes.names == [*THINGS.values()] and instances.has_run_lengths


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["categories"][0].pop("isthing"), r"'bolt' must say isthing.*None"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=4),
            r"a segment of 000001.png has category_id 4",
        ),
        (lambda c: c["annotations"].pop(), "every image must have one annotation, 000006.png"),
        (lambda c: c["annotations"][0].pop("file_name"), r"wrong annotation, KeyError"),
        (lambda c: c["annotations"][0].update(file_name=None), r"1 of the 6 files .*is None"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), r"KeyError\('id'\)"),
        (lambda c: c["annotations"][0].update(file_name="x.png"), r"1 of the 6 files .*x.png"),
    ],
)
def test_wrong_segments_are_refused(panoptic, edit, message):
    file = panoptic / "annotations/panoptic_train2017.json"
    content = read(file)
    edit(content)
    write(file, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(panoptic, "panoptic")


def test_stuff_alone_has_no_objects_to_evaluate(panoptic):
    for part in ("train", "val"):
        file = panoptic / f"annotations/panoptic_{part}2017.json"
        content = read(file)
        for category in content["categories"]:
            category["isthing"] = 0
        write(file, content)
    own = prepare(panoptic, "panoptic", evaluated=("instances", "semantic"))
    assert not own.parts["val"].json_file and len(own.classes) == len(THINGS | STUFF)


def test_ids_of_segments_may_be_text(panoptic):
    expected = DatasetCatalog.get(prepare(panoptic, "panoptic").register()["train"])
    file = panoptic / "annotations/panoptic_train2017.json"
    content = read(file)
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["id"] = str(segment["id"])
    write(file, content)
    assert DatasetCatalog.get(prepare(panoptic, "panoptic").register()["train"]) == expected


def first_png(root: Path) -> Path:
    return sorted((root / "annotations/panoptic_train2017").iterdir())[0]


def test_segments_of_another_size_are_refused(panoptic):
    cv2.imwrite(str(first_png(panoptic)), np.zeros((8, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"000001.png is 16 x 8, .* says 64 x 64"):
        prepare(panoptic, "panoptic")


def test_label_maps_follow_segments_that_are_drawn_anew(panoptic):
    def labels():
        return cv2.imread(prepare(panoptic).parts["train"].pairs[0][1], cv2.IMREAD_UNCHANGED)

    before = labels()
    png = first_png(panoptic)
    picture = cv2.imread(str(png))
    picture[:] = picture[0, 0]
    cv2.imwrite(str(png), picture)
    after = labels()
    assert len(np.unique(before)) > 1 and (after == before[0, 0]).all()


def edited(panoptic, edit):
    """Edits the first annotation of the val part; what the val part is made to."""
    file = panoptic / "annotations/panoptic_val2017.json"
    content = read(file)
    edit(content["annotations"][0]["segments_info"])
    write(file, content)
    own = prepare(panoptic, "panoptic")
    return own, read(Path(own.parts["val"].panoptic_json))["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda segments: [segment.pop("area") for segment in segments],
        lambda segments: [segment.update(area=1, bbox=[0, 0, 1, 1]) for segment in segments],
        lambda segments: segments.append({"id": 77, "category_id": 3, "area": 5}),
    ],
)
def test_areas_of_segments_are_those_of_their_pixels(panoptic, edit):
    _, expected = edited(panoptic, len)
    own, found = edited(panoptic, edit)
    assert found == expected and all(segment["area"] > 0 for segment in expected)
    assert len(own.notes) == len([n for n in own.notes if "1 segments without a pixel" in n]) < 2


def test_pixels_of_no_segment_are_refused(panoptic):
    with pytest.raises(ValueError, match=r"has segment id \d+, which its JSON file lacks"):
        edited(panoptic, lambda segments: segments.pop())


def test_areas_of_segments_are_not_believed_by_the_metrics(panoptic, tmp_path):
    """A perfect prediction has PQ 100 although the file tells other areas."""
    own, _ = edited(panoptic, lambda segments: [s.update(area=1) for s in segments])
    evaluator = COCOPanopticEvaluator(own.register()["val"], str(tmp_path / "pq"))
    evaluator.reset()
    for record in DatasetCatalog.get(own.register()["val"]):
        rgb = np.asarray(Image.open(record["pan_seg_file_name"]).convert("RGB"))
        ids = torch.from_numpy(rgb_to_ids(rgb))
        evaluator.process([record], [{"panoptic_seg": (ids, record["segments_info"])}])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == 100


def test_png_files_of_segments_beside_images_are_no_label_maps(panoptic):
    (panoptic / "images").mkdir()
    for part in ("train2017", "val2017"):
        (panoptic / part).rename(panoptic / "images" / part)
    assert prepare(panoptic).classes.names == NAMES


@pytest.mark.parametrize("how", ["{folder}/{name}", "../panoptic_{part}2017/{name}"])
def test_names_of_pngs_may_lead_out_of_their_folder(panoptic, how):
    """Label maps are made of them, not the PNG files themselves taken for them."""
    expected = [
        cv2.imread(label, cv2.IMREAD_UNCHANGED) for _, label in prepare(panoptic).parts["val"].pairs
    ]
    for part in ("train", "val"):
        file = panoptic / f"annotations/panoptic_{part}2017.json"
        content = read(file)
        for one in content["annotations"]:
            name, folder = one["file_name"], file.with_suffix("")
            one["file_name"] = how.format(folder=folder, part=part, name=name)
        write(file, content)
    own = prepare(panoptic)
    for (_, label), labels in zip(own.parts["val"].pairs, expected, strict=True):
        assert panoptic not in Path(label).parents
        assert np.array_equal(cv2.imread(label, cv2.IMREAD_UNCHANGED), labels)
