import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from vitadapter_d2.data.datasets.mapillary import mapillary_to_cityscapes
from vitadapter_d2.data.datasets.registration import (
    SemanticPaths,
    load_semantic_records,
    register_semantic,
)

# Names, number of classes, the first and the last class with their colours.
SETS = [
    (
        "cityscapes_fine_sem_seg_{}",
        "train val test",
        19,
        ("road", [128, 64, 128], "bicycle", [119, 11, 32]),
    ),
    (
        "coco_2017_{}_stuff_10k_sem_seg",
        "train test",
        171,
        ("person", [0, 192, 64], "wood", [64, 64, 0]),
    ),
    (
        "coco_2017_{}_stuff_164k_sem_seg",
        "train val",
        171,
        ("person", [0, 192, 64], "wood", [64, 64, 0]),
    ),
    (
        "pascal_context_59_sem_seg_{}",
        "train val",
        59,
        ("aeroplane", [180, 120, 120], "wood", [31, 0, 255]),
    ),
    (
        "mapillary_vistas_sem_seg_{}",
        "train val",
        65,
        ("Bird", [165, 42, 42], "Ego Vehicle", [120, 10, 10]),
    ),
    (
        "mapillary_vistas_cityscapes_sem_seg_{}",
        "train val",
        19,
        ("road", [128, 64, 128], "bicycle", [119, 11, 32]),
    ),
    (
        "potsdam_sem_seg_{}",
        "train val",
        6,
        ("impervious_surface", [255, 255, 255], "clutter", [255, 0, 0]),
    ),
    (
        "chase_db1_sem_seg_{}",
        "train val",
        2,
        ("background", [120, 120, 120], "vessel", [6, 230, 230]),
    ),
]


@pytest.mark.parametrize(("name", "splits", "classes", "ends"), SETS, ids=lambda x: str(x))
def test_names_colours_and_counts_are_the_published_ones(name, splits, classes, ends):
    for split in splits.split():
        assert name.format(split) in DatasetCatalog.list()
        metadata = MetadataCatalog.get(name.format(split))
        names, colors = metadata.stuff_classes, metadata.stuff_colors
        assert len(names) == len(set(names)) == len(colors) == classes
        assert (names[0], colors[0], names[-1], colors[-1]) == ends
        assert metadata.ignore_label == (65 if classes == 65 else 255)
        assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in colors)


@pytest.mark.parametrize("release", ["train_stuff_10k", "test_stuff_10k", "val_stuff_164k"])
def test_coco_stuff_has_the_ids_of_its_label_list(release):
    split, _, rest = release.partition("_")
    ids = MetadataCatalog.get(f"coco_2017_{split}_{rest}_sem_seg").stuff_dataset_id_to_contiguous_id
    assert sorted(ids.values()) == list(range(171))
    assert set(range(1, 183)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert list(ids) == sorted(ids)


def test_mapillary_counts_as_cityscapes():
    mapping = mapillary_to_cityscapes()
    assert set(mapping) == set(range(66)) and set(mapping.values()) == {*range(19), 255}
    road, sidewalk, rider = ([k for k, v in mapping.items() if v == c] for c in (0, 1, 12))
    assert (road, sidewalk, rider) == ([13, 24, 41], [2, 15], [20, 21, 22])
    assert mapping[65] == 255


@pytest.fixture
def paths(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("images/b.jpg", "images/a.jpg", "labels/a_x.png", "labels/b_x.png"):
        (tmp_path / name).touch()
    (tmp_path / "labels" / ".a_x.png.17.partial").touch()
    folders = str(tmp_path / "images"), str(tmp_path / "labels")
    return SemanticPaths(*folders, label_suffix="_x.png")


def test_images_and_label_maps_are_paired_by_name(paths):
    records = load_semantic_records(paths)
    assert [(r["file_name"], r["sem_seg_file_name"]) for r in records] == [
        (f"{paths.images}/{name}.jpg", f"{paths.labels}/{name}_x.png") for name in "ab"
    ]


def test_what_has_no_partner_is_named(paths, tmp_path):
    (tmp_path / "images" / "c.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"c_x\.png does not exist.*1 of 3 images"):
        load_semantic_records(paths)
    shared = SemanticPaths(paths.images, paths.labels, ".jpg", "_x.png", shares_images=True)
    assert len(load_semantic_records(shared)) == 2
    (tmp_path / "images" / "a.jpg").unlink()
    for one in (paths, shared):
        with pytest.raises(FileNotFoundError, match=r"a\.jpg does not exist, the image of"):
            load_semantic_records(one)
    with pytest.raises(FileNotFoundError, match=r"no \*_y\.png in .*DETECTRON2_DATASETS"):
        load_semantic_records(SemanticPaths(paths.images, paths.labels, ".jpg", "_y.png"))
    with pytest.raises(FileNotFoundError, match="in nowhere"):
        load_semantic_records(SemanticPaths("nowhere", "nowhere"))


def test_a_name_of_another_package_is_completed(paths):
    DatasetCatalog.register("maps_of_another", lambda: ["theirs"])
    MetadataCatalog.get("maps_of_another").stuff_classes = ["theirs"]
    try:
        register_semantic("maps_of_another", paths, [], ignore_label=65)
        metadata = MetadataCatalog.get("maps_of_another")
        assert DatasetCatalog.get("maps_of_another") == ["theirs"]
        assert (metadata.stuff_classes, metadata.ignore_label) == (["theirs"], 65)
        assert metadata.sem_seg_root == paths.labels
    finally:
        DatasetCatalog.remove("maps_of_another")
        MetadataCatalog.remove("maps_of_another")
