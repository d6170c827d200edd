import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from own_folders import THINGS, as_boxes, coco, read, roboflow, write

from vitadapter_d2.data.own import OwnSource, prepare_own_data


@pytest.fixture
def folder(shapes, tmp_path):
    return coco(shapes, tmp_path / "mine")


def prepare(folder, kind="instances"):
    return prepare_own_data(OwnSource(folder), kind, folder.parent / "out")


def change(folder, part="train", **entries):
    """Edits the first annotation of a part; returns the file."""
    file = folder / f"annotations/instances_{part}2017.json"
    content = read(file)
    for key, value in entries.items():
        if value is None:
            content["annotations"][0].pop(key, None)
        else:
            content["annotations"][0][key] = value
    write(file, content)
    return file


def records(own, part="train"):
    return DatasetCatalog.get(own.register()[part])


def test_records_have_contiguous_classes_and_own_names(folder):
    own = prepare(folder)
    found = records(own)
    assert {a["category_id"] for r in found for a in r["annotations"]} <= set(range(5))
    metadata = MetadataCatalog.get(own.register()["val"])
    assert metadata.thing_classes == [*THINGS.values()]
    assert metadata.thing_dataset_id_to_contiguous_id == {n: i for i, n in enumerate(THINGS)}
    assert len({tuple(color) for color in metadata.thing_colors}) == 5


def test_registering_again_changes_nothing_and_other_data_have_other_names(folder, shapes):
    own = prepare(folder)
    names = own.register()
    records(own)
    assert own.register() == names
    change(folder, bbox=[1.0, 2.0, 3.0, 4.0])
    assert prepare(folder).register()["train"] != names["train"]


def test_the_placeholder_of_roboflow_is_no_class(shapes, tmp_path):
    own = prepare(roboflow(shapes, tmp_path / "mine"))
    assert own.classes.names == [*THINGS.values()]
    assert "'parts' stands for all classes" in own.notes[0]


@pytest.mark.parametrize("used", [0, 1])
def test_the_placeholder_may_have_the_name_of_the_only_class(shapes, tmp_path, used):
    root = roboflow(shapes, tmp_path / "mine")
    for part in ("train", "valid"):
        content = read(root / part / "_annotations.coco.json")
        for annotation in content["annotations"]:
            annotation["category_id"] = 1
        content["annotations"][0]["category_id"] = used
        content["categories"] = [
            {"id": 0, "name": "raccoon", "supercategory": "none"},
            {"id": 1, "name": "raccoon", "supercategory": "raccoon"},
        ]
        write(root / part / "_annotations.coco.json", content)
    if used == 0:
        with pytest.raises(ValueError, match=r"coco.json: 2 classes have the name 'raccoon'"):
            prepare(root)
    else:
        assert prepare(root).classes.ids == [1]


def test_a_class_that_only_looks_like_a_placeholder_stays(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    for part in ("train", "valid"):
        content = read(root / part / "_annotations.coco.json")
        content["annotations"][0]["category_id"] = 0
        write(root / part / "_annotations.coco.json", content)
    assert prepare(root).classes.names == ["parts", *THINGS.values()]


def test_the_evaluator_accepts_a_val_part_that_lacks_classes_and_counts_from_zero(folder, tmp_path):
    """Its ids differ, its annotations have neither area nor iscrowd, one has the id 0."""
    file = folder / "annotations/instances_val2017.json"
    content = read(file)
    used = content["annotations"][0]["category_id"]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == used]
    for number, annotation in enumerate(content["annotations"]):
        annotation |= {"id": number, "category_id": 1}
        del annotation["area"], annotation["iscrowd"]
    content["categories"] = [{"id": 1, "name": THINGS[used]}]
    write(file, content)
    own = prepare(folder)
    assert own.classes.names == [*THINGS.values()]
    mended = read_part(own, "val")
    assert {a["category_id"] for a in mended["annotations"]} == {used}
    assert min(a["id"] for a in mended["annotations"]) == 1
    expected = [c["area"] for c in mended["annotations"]]
    assert all(area > 0 for area in expected)
    evaluator = COCOEvaluator(own.register()["val"], output_dir=str(tmp_path), distributed=False)
    evaluator.reset()
    assert evaluator._coco_api.getCatIds() == [*THINGS]


def read_part(own, part):
    from pathlib import Path

    return read(Path(own.parts[part].json_file))


def test_boxes_alone_have_no_masks(shapes, tmp_path):
    own = prepare(coco(shapes, tmp_path / "mine", as_boxes))
    assert not own.classes.has_masks
    assert "segmentation" not in records(own)[0]["annotations"][0]


def test_some_objects_without_mask_make_all_count_as_boxes(folder):
    change(folder, segmentation=[])
    own = prepare(folder)
    assert not own.classes.has_masks
    assert any("have no mask" in note for note in own.notes)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"category_id": 4}, r"annotation 1: category_id 4 is unknown.*\[3, 7, 20, 21, 90\]"),
        ({"category_id": "x"}, "annotation 1: invalid literal"),
        ({"category_id": None}, "annotation 1: it has no 'category_id'"),
        ({"bbox": [1, 2, 3]}, "four finite numbers"),
        ({"bbox": 5}, "four finite numbers.*got 5"),
        ({"bbox": [1, 2, float("nan"), 4]}, "four finite numbers"),
        ({"bbox": None, "segmentation": None}, "neither bbox nor segmentation"),
        (
            {"segmentation": {"size": [8, 8], "counts": "x"}},
            r"another size than its image; it has \(height, width\) \[8, 8\], its image \(64, 64\)",
        ),
        ({"segmentation": {"size": [64, 64], "counts": [5, 5]}}, "does not fill its image"),
        ({"segmentation": {"size": [64, 64]}}, "without size or counts"),
        ({"segmentation": {"size": [64, 64], "counts": [-1, 4097]}}, "not whole numbers"),
        ({"category_id": float("inf")}, "annotation 1: inf is no whole number"),
        ({"iscrowd": float("inf")}, "annotation 1: cannot convert float infinity"),
        ({"segmentation": "polygon"}, "must be polygons or run lengths, got 'polygon'"),
    ],
)
def test_what_has_no_meaning_is_refused(folder, entries, message):
    file = change(folder, **entries)
    with pytest.raises(ValueError, match=f"{file.name}: .*{message}"):
        prepare(folder)


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        ({"bbox": [5, 5, 0, 4], "segmentation": []}, "1 objects without area, or outside"),
        ({"bbox": [70, 5, 9, 4]}, "1 objects without area, or outside"),
        ({"segmentation": [[1, 1, 2, 2]]}, "1 objects without a polygon of 3 points"),
        ({"segmentation": {"size": [64, 64], "counts": [4096]}}, "or with an empty mask"),
        ({"image_id": 99}, "1 annotations of images that it does not list"),
    ],
)
def test_what_cannot_be_learnt_from_is_left_out_and_told(folder, entries, note):
    count = len(read_part(prepare(folder), "train")["annotations"])
    change(folder, **entries)
    own = prepare(folder)
    assert any(note in told for told in own.notes)
    assert len(read_part(own, "train")["annotations"]) == count - 1
    records(own)


def test_what_can_be_mended_is(folder):
    change(folder, bbox=[-10, 5, 200, 9.0], category_id="7", ignore=1)
    own = prepare(folder)
    first = read_part(own, "train")["annotations"][0]
    assert first["bbox"] == [0, 5, 64, 9] and first["category_id"] == 7 and first["iscrowd"] == 1
    assert any("1 boxes reach beyond their image" in note for note in own.notes)


def test_a_box_is_made_of_its_mask(folder):
    square = [10.0, 10.0, 30.0, 10.0, 30.0, 40.0, 10.0, 40.0]
    change(folder, bbox=None, area=None, segmentation=square)  # a polygon without its list
    first = read_part(prepare(folder), "train")["annotations"][0]
    assert first["segmentation"] == [square]
    assert first["bbox"] == pytest.approx([10, 10, 20, 30], abs=1)
    assert first["area"] == pytest.approx(600, rel=0.1)


def test_a_box_without_area_is_made_of_its_mask(folder):
    square = [10.0, 10.0, 30.0, 10.0, 30.0, 40.0, 10.0, 40.0]
    change(folder, bbox=[0, 0, 0, 0], segmentation=[square])
    own = prepare(folder)
    assert read_part(own, "train")["annotations"][0]["bbox"] == pytest.approx([10, 10, 20, 30])
    assert any("1 boxes without area are taken from their masks" in note for note in own.notes)


@pytest.mark.parametrize("nest", [lambda points: points, lambda points: [points]])
def test_points_as_pairs_are_a_polygon(folder, nest):
    change(folder, segmentation=nest([[10, 10], [30, 10], [30, 40], [10, 40]]))
    own = prepare(folder)
    first = read_part(own, "train")["annotations"][0]
    assert first["segmentation"] == [[10, 10, 30, 10, 30, 40, 10, 40]] and own.classes.has_masks


def test_an_empty_polygon_is_no_mask_and_the_box_stays(folder):
    change(folder, segmentation=[[]])
    own = prepare(folder)
    assert not own.classes.has_masks
    assert len(read_part(own, "train")["annotations"]) == len(
        read(folder / "annotations/instances_train2017.json")["annotations"]
    )


def test_repeated_ids_of_annotations_are_renumbered_those_of_images_refused(folder):
    change(folder, id=2)
    assert len({a["id"] for a in read_part(prepare(folder), "train")["annotations"]}) > 2
    file = folder / "annotations/instances_train2017.json"
    content = read(file)
    content["images"][1]["id"] = content["images"][0]["id"]
    write(file, content)
    with pytest.raises(ValueError, match=r"1 ids of images are there twice, first 1"):
        prepare(folder)


def test_names_instead_of_numbers_for_images_are_understood(folder):
    file = folder / "annotations/instances_train2017.json"
    content = read(file)
    for image in content["images"]:
        image["id"] = f"img-{image['id']}"
        del image["width"], image["height"]
    for annotation in content["annotations"]:
        annotation["image_id"] = f"img-{annotation['image_id']}"
    write(file, content)
    found = records(prepare(folder))
    assert [r["image_id"] for r in found] == [1, 2, 3, 4, 5, 6]
    assert all((r["width"], r["height"]) == (64, 64) and r["annotations"] for r in found)


def test_a_class_of_the_val_part_that_training_lacks_is_named(folder):
    file = folder / "annotations/instances_val2017.json"
    content = read(file)
    content["categories"].append({"id": 500, "name": "rivet"})
    write(file, content)
    prepare(folder)  # nothing is annotated with it
    change(folder, "val", category_id=500)
    with pytest.raises(ValueError, match=r"objects of class 'rivet', which .*train2017.json lacks"):
        prepare(folder)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "no categories"),
        ([{"id": 1}], "is wrong: KeyError"),
        ([{"id": 1, "name": "  "}], "1 to 100 characters"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "1 ids of categories are there twice"),
    ],
)
def test_wrong_categories_are_named(folder, categories, message):
    file = folder / "annotations/instances_train2017.json"
    write(file, {**read(file), "categories": categories})
    with pytest.raises(ValueError, match=message):
        prepare(folder)


def test_a_name_that_two_classes_have_is_refused(folder):
    for part in ("train", "val"):
        file = folder / f"annotations/instances_{part}2017.json"
        content = read(file)
        content["categories"][1]["name"] = "bolt"
        write(file, content)
    with pytest.raises(ValueError, match="train2017.json: 2 classes have the name 'bolt'"):
        prepare(folder)


def test_parts_without_objects_are_named(folder):
    file = folder / "annotations/instances_val2017.json"
    write(file, {**read(file), "annotations": []})
    with pytest.raises(ValueError, match=r"instances_val2017.json has no objects for the val part"):
        prepare(folder)


def test_why_no_object_is_left_is_told(folder):
    def one_point(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [[1, 1]]
        return content

    file = folder / "annotations/instances_train2017.json"
    write(file, one_point(read(file)))
    with pytest.raises(ValueError, match=r"no objects for the train part: .* polygon of 3 points"):
        prepare(folder)


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("1", 1), (True, 1), (None, 0)])
def test_crowds_are_told_by_numbers_in_any_form(folder, value, expected):
    file = change(folder)
    content = read(file)
    content["annotations"][0]["iscrowd"] = value
    write(file, content)
    assert read_part(prepare(folder), "train")["annotations"][0]["iscrowd"] == expected


def test_sizes_of_images_may_be_text_or_fractions(folder):
    file = folder / "annotations/instances_train2017.json"
    content = read(file)
    content["images"][0] |= {"width": "64", "height": 64.0}
    write(file, content)
    image = read_part(prepare(folder), "train")["images"][0]
    assert repr((image["width"], image["height"])) == "(64, 64)"


@pytest.mark.parametrize("entry", [1, {"id": [1], "file_name": "a.png"}, {"id": 7}])
def test_wrong_image_entries_are_refused(folder, entry):
    file = folder / "annotations/instances_train2017.json"
    content = read(file)
    content["images"][0] = entry
    write(file, content)
    with pytest.raises(ValueError, match=r"train2017.json: an image entry is wrong"):
        prepare(folder)


def test_classes_of_objects_are_things_whatever_the_file_says(folder):
    for part in ("train", "val"):
        file = folder / f"annotations/instances_{part}2017.json"
        content = read(file)
        content["categories"][0]["isthing"] = 0
        write(file, content)
    own = prepare(folder)
    assert own.classes.names == [*THINGS.values()]
    records(own)
