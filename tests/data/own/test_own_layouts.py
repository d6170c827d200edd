import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_folders import NAMES, THINGS, coco, label_maps, read, roboflow, roboflow_masks, write
from own_folders import renamed as with_own_names

from vitadapter_d2.data.own import MADE_FOLDER, OwnSource, prepare_own_data
from vitadapter_d2.data.own.joining import hold_out
from vitadapter_d2.data.own.layouts import find_places


def prepare(folder, out, kind="instances", **options):
    return prepare_own_data(OwnSource(folder, **options), kind, out)


def parts(shapes: Path) -> dict[str, dict]:
    return {
        part: with_own_names(read(shapes / f"annotations/instances_{part}.json"))
        for part in ("train", "val")
    }


# Where annotation tools put JSON files and images.
LAYOUTS = {
    "Roboflow": ("{part}/_annotations.coco.json", "{part}", ("train", "valid")),
    "COCO": ("annotations/instances_{part}2017.json", "{part}2017", ("train", "val")),
    "mmdetection": ("annotations/{part}.json", "images/{part}", ("train", "val")),
    "FiftyOne": ("{part}/labels.json", "{part}/data", ("train", "validation")),
    "CVAT": ("annotations/instances_{part}.json", "images/{part}", ("Train", "Validation")),
    "flat": ("{part}.json", "images", ("train", "val")),
    "beside": ("{part}_coco.json", "{part}/images", ("training", "val")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_annotation_tools_are_found(layout, shapes, tmp_path):
    json_file, images, names = LAYOUTS[layout]
    root = tmp_path / "mine"
    for (part, content), name in zip(parts(shapes).items(), names, strict=True):
        for image in content["images"]:  # a folder may hold the images of both parts
            target = root / images.format(part=name) / f"{part}_{image['file_name']}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shapes / "images" / part / image["file_name"], target)
            image["file_name"] = target.name
        write(root / json_file.format(part=name), content)
    own = prepare(root, tmp_path / "out")
    assert {part: one.num_images for part, one in own.parts.items()} == {"train": 6, "val": 3}
    assert own.classes.names == [*THINGS.values()]
    assert own.classes.ids == [*THINGS]
    assert str(root) in own.lines[0] and "train: 6 images" in own.lines[1]


def test_files_of_other_tasks_and_parts_are_passed_by(shapes, tmp_path):
    root = coco(shapes, tmp_path / "mine")
    for name in ("captions_train2017", "person_keypoints_train2017", "stuff_val2017", "test"):
        write(root / f"annotations/{name}.json", {"images": []})
    write(root / "config.json", {"lr": 1})
    assert set(find_places(OwnSource(root), "instances")) == {"train", "val"}


def test_names_that_contain_those_of_other_tasks_are_found(shapes, tmp_path):
    for part, content in parts(shapes).items():
        write(tmp_path / f"my_stuff_{part}.json", content)
        write(tmp_path / f"stuff_{part}2017.json", content)
    found = find_places(OwnSource(tmp_path), "instances")
    assert {place.annotations.name for place in found.values()} == {
        "my_stuff_train.json",
        "my_stuff_val.json",
    }
    for part in found:
        (tmp_path / f"my_stuff_{part}.json").rename(tmp_path / f"info_{part}.json")
    assert set(find_places(OwnSource(tmp_path), "instances")) == {"train", "val"}


def test_two_candidates_are_named(shapes, tmp_path):
    root = coco(shapes, tmp_path / "mine")
    file = root / "annotations/instances_train2017.json"
    shutil.copy(file, file.with_name("instances_train2014.json"))
    with pytest.raises(ValueError, match=r"several.*train annotations.*2014.json.*--train-json"):
        prepare(root, tmp_path)
    options = {"train_json": file, "val_json": root / "annotations/instances_val2017.json"}
    assert prepare(None, tmp_path / "out", **options).parts["train"].num_images == 6


def test_json_files_and_image_folders_may_be_given(shapes, tmp_path):
    content = parts(shapes)
    for part in content:
        write(tmp_path / f"{part}.json", content[part])
    own = prepare(
        None,
        tmp_path / "out",
        train_json=tmp_path / "train.json",
        val_json=tmp_path / "val.json",
        images=shapes / "images" / "train",
        val_images=shapes / "images" / "val",
    )
    assert own.parts["val"].images == str(shapes / "images" / "val")


def test_names_with_folders_of_another_machine_are_understood(shapes, tmp_path):
    def elsewhere(content):
        for image in content["images"]:
            image["file_name"] = "C:\\label studio\\" + image["file_name"]
        return content

    root = coco(shapes, tmp_path / "mine", elsewhere)
    own = prepare(root, tmp_path / "out")
    assert own.parts["train"].images == str(root / "train2017")


def test_what_was_looked_for_is_said(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "data.yaml").touch()
    with pytest.raises(
        ValueError, match=r"no COCO annotations.*_annotations.coco.json.*photos/.*Y"
    ):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"no images and label maps.*masks/train.*photos/"):
        prepare(tmp_path, tmp_path / "out", kind="semantic")


def test_without_a_val_part_one_must_be_held_out(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    shutil.rmtree(root / "valid")
    with pytest.raises(ValueError, match=r"no part to evaluate on.*--val-fraction 0.2"):
        prepare(root, tmp_path / "out")
    own = prepare(root, tmp_path / "out", val_fraction=0.3)
    assert [own.parts[part].num_images for part in ("train", "val")] == [4, 2]
    held = {image["file_name"] for image in read(Path(own.parts["val"].json_file))["images"]}
    kept = {image["file_name"] for image in read(Path(own.parts["train"].json_file))["images"]}
    assert not held & kept
    assert prepare(root, tmp_path / "out", val_fraction=0.3).parts == own.parts
    assert "divided into train and val" in own.lines[0]


def test_augmented_copies_of_a_photo_stay_together():
    """As Roboflow names them."""
    names = [f"photo{i}_jpg.rf.{h}.jpg" for i in range(50) for h in ("0a1b", "77fe", "c3d9")]
    held = hold_out(names, str, 0.2)
    photos = {name.split(".rf.")[0] for name in held}
    assert len(photos) == 10 and len(held) == 30
    assert held == {name for name in names if name.split(".rf.")[0] in photos}
    with pytest.raises(ValueError, match="1 photos cannot be divided"):
        hold_out(names[:3], str, 0.2)


def test_a_share_to_hold_out_beside_a_val_part_is_told(shapes, tmp_path):
    own = prepare(roboflow(shapes, tmp_path / "mine"), tmp_path / "out", val_fraction=0.5)
    assert own.parts["val"].num_images == 3
    assert any("--val-fraction 0.5 is not used" in note for note in own.notes)


def test_without_a_train_part_only_evaluation_is_possible(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    shutil.rmtree(root / "train")
    with pytest.raises(ValueError, match="none to train on"):
        prepare(root, tmp_path / "out")
    own = prepare_own_data(OwnSource(root), "instances", tmp_path / "out", needs_train=False)
    assert own.classes.names == [*THINGS.values()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "need --data DIR"),
        ({"folder": Path("/nowhere")}, "no folder /nowhere"),
        ({"train_json": Path("/nowhere.json")}, "no file /nowhere.json"),
        ({"folder": Path("."), "train_json": Path("a")}, "exclude each other"),
        ({"folder": Path("."), "val_fraction": 1.5}, r"in \(0, 1\), got 1.5"),
    ],
)
def test_wrong_flags_are_named(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        OwnSource(**options)


@pytest.mark.parametrize("labels", ["labels", "annotations", "masks"])
def test_label_maps_are_found(labels, shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine", labels)
    own = prepare(root, tmp_path / "out", "semantic")
    assert len(own.classes) == 7
    image, label = own.parts["train"].pairs[0]
    assert Path(image).stem == Path(label).stem and labels in label


def test_label_maps_inside_of_the_parts_and_with_endings_are_found(shapes, tmp_path):
    for part, name in (("train", "train"), ("val", "Validation")):
        shutil.copytree(shapes / "images" / part, tmp_path / name / "images")
        (tmp_path / name / "masks").mkdir()
        for label in (shapes / f"semantic_{part}").iterdir():
            shutil.copy(label, tmp_path / name / "masks" / f"{label.stem}_mask.png")
    own = prepare(tmp_path, tmp_path / "out", "semantic")
    assert own.parts["val"].num_images == 3


def test_label_maps_of_roboflow_lie_beside_their_images(shapes, tmp_path):
    root = roboflow_masks(shapes, tmp_path / "mine")
    own = prepare(root, tmp_path / "out", "semantic")
    assert own.classes.names == NAMES
    assert {part: one.num_images for part, one in own.parts.items()} == {"train": 6, "val": 3}
    image, label = own.parts["train"].pairs[0]
    assert Path(label).name == f"{Path(image).stem}_mask.png"
    table = root / "valid/_classes.csv"
    rows = table.read_text()
    table.write_text(rows.replace("6, floor", "7, floor"))
    with pytest.raises(ValueError, match=r"_classes.csv must number the classes 0, 1, 2.* 5, 7\]"):
        prepare(root, tmp_path / "out", "semantic")
    table.write_text(rows.replace("bolt", "rivet"))
    with pytest.raises(ValueError, match=r"train/_classes.csv and .*valid/_classes.csv name other"):
        prepare(root, tmp_path / "out", "semantic")
    table.write_text("bolt\nbelt\n")
    with pytest.raises(ValueError, match=r"_classes.csv is no table of pixel values"):
        prepare(root, tmp_path / "out", "semantic")


def test_label_maps_in_folders_of_their_own_are_paired_by_folder_and_name(shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine")
    for folder in (root / "images", root / "labels"):
        for file in [*folder.glob("*/*")]:
            target = file.parent / f"scene {file.stem}" / ("0" + file.suffix)
            target.parent.mkdir()
            file.rename(target)
    own = prepare(root, tmp_path / "out", "semantic")
    assert own.parts["train"].num_images == 6
    for image, label in own.parts["train"].pairs:
        assert Path(image).parent.name == Path(label).parent.name
    shutil.rmtree(root / "labels/train/scene 000002")
    with pytest.raises(FileNotFoundError, match=r"1 images have no label map.*scene 000002"):
        prepare(root, tmp_path / "out", "semantic")


def test_an_undivided_folder_of_label_maps_is_divided(shapes, tmp_path):
    shutil.copytree(shapes / "images/train", tmp_path / "images")
    shutil.copytree(shapes / "semantic_train", tmp_path / "labels")
    own = prepare(tmp_path, tmp_path / "out", "semantic", val_fraction=0.5)
    assert [own.parts[part].num_images for part in ("train", "val")] == [3, 3]


def test_an_image_without_its_label_map_is_named(shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine")
    next((root / "labels/train").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images have no label map.*a.jpg and a.png"):
        prepare(root, tmp_path / "out", "semantic")


def test_images_that_are_missing_are_counted(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    (root / "train/000002.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 6 files .*000002.png; looked in .*train"
    ):
        prepare(root, tmp_path / "out")


def test_an_image_of_another_size_is_named(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    cv2.imwrite(str(root / "train/000002.png"), np.zeros((8, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"000002.png is 16 x 8, .*coco.json says 64 x 64"):
        prepare(root, tmp_path / "out")
    (root / "train/000002.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"000002.png cannot be read"):
        prepare(root, tmp_path / "out")


def test_no_json_is_named(tmp_path):
    (tmp_path / "train.json").write_text("{")
    (tmp_path / "val.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"train.json cannot be read as JSON"):
        prepare(tmp_path, tmp_path / "out")
    write(tmp_path / "train.json", {"images": [], "annotations": {}})
    with pytest.raises(
        ValueError, match=r"COCO's JSON cannot be used: .*'annotations', 'categories'"
    ):
        prepare(tmp_path, tmp_path / "out")


def test_a_byte_order_mark_is_no_part_of_json_or_names(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    file = root / "train/_annotations.coco.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert prepare(root, tmp_path / "out").parts["train"].num_images == 6
    root = label_maps(shapes, tmp_path / "labels")
    lines = (root / "classes.txt").read_text().splitlines()
    (root / "classes.txt").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
    assert prepare(root, tmp_path / "out", "semantic").classes.names == lines


def rename_images(root, on_disk, in_json):
    """Renames the training images, here and in the annotations, by functions of the number."""
    file = root / "train/_annotations.coco.json"
    content = read(file)
    for number, image in enumerate(content["images"]):
        target = root / "train" / on_disk(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / image["file_name"]).rename(target)
        image["file_name"] = in_json(number)
    write(file, content)


@pytest.mark.parametrize(
    ("on_disk", "in_json"),
    [
        ("{}/a.png", "{}\\a.png"),  # which name differs by the folder alone
        ("caf\u00e9 \u732b {}.PNG", "C:\\my data\\caf\u00e9 \u732b {}.PNG"),
        ("images/{}.png", "images/{}.png"),
    ],
)
def test_names_of_other_systems_are_understood(shapes, tmp_path, on_disk, in_json):
    root = roboflow(shapes, tmp_path / "mine")
    rename_images(root, on_disk.format, in_json.format)
    assert prepare(root, tmp_path / "out").parts["train"].num_images == 6


def test_names_that_differ_by_folders_alone_do_not_become_one_image(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    rename_images(root, "{}.png".format, "{}/0.png".format)
    with pytest.raises(FileNotFoundError, match=r"6 of the 6 files .*first is 0/0.png"):
        prepare(root, tmp_path / "out")


def test_what_was_made_among_the_data_is_not_found_again(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    first = prepare(root, root / MADE_FOLDER)
    assert prepare(root, root / MADE_FOLDER) == first


def test_sixteen_bits_are_refused_in_images_and_fine_in_label_maps(shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine")
    for file in (root / "labels").glob("*/*"):
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(np.uint16))
    assert len(prepare(root, tmp_path / "out", "semantic").classes) == 7
    cv2.imwrite(str(root / "images/train/000002.png"), np.full((64, 64), 40000, np.uint16))
    with pytest.raises(ValueError, match=r"000002.png has more than 8 bits"):
        prepare(root, tmp_path / "out", "semantic")


def test_folders_with_hidden_files_alone_are_empty(shapes, tmp_path):
    root = label_maps(shapes, tmp_path / "mine")
    for file in [*root.glob("*/train/*")]:
        file.rename(file.with_name("._" + file.name))
    with pytest.raises(FileNotFoundError, match=r"no images in .*images.train"):
        prepare(root, tmp_path / "out", "semantic")


def test_annotations_that_are_no_objects_are_told_by_file(shapes, tmp_path):
    root = roboflow(shapes, tmp_path / "mine")
    file = root / "train/_annotations.coco.json"
    write(file, {**read(file), "annotations": [1]})
    source = OwnSource(train_json=file, val_json=root / "valid/_annotations.coco.json")
    with pytest.raises(ValueError, match=r"coco.json: annotation 1"):
        prepare_own_data(source, "instances", tmp_path / "out")
