"""ADE20K and Cityscapes, panoptic and objects: from the downloaded files to a score."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import (
    register_all_ade20k,
    register_all_cityscapes,
    register_all_cityscapes_panoptic,
)
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.structures import Instances
from PIL import Image

from vitadapter_d2.data import InstanceMapper, PanopticMapper
from vitadapter_d2.data.checking.dataset import check_dataset
from vitadapter_d2.data.coco_format import rgb_to_ids
from vitadapter_d2.data.datasets import register_all
from vitadapter_d2.engine.config.loading import configs_root
from vitadapter_d2.engine.records.pictures import PictureWriter

SIZE = (48, 96)
STEM = "ulm_000000_000019"
SCRIPTS = {
    "ade20k": ("prepare_ade20k_sem_seg.py", "prepare_ade20k_panoptic.py"),
    "cityscapes": ("prepare_cityscapes.py", "prepare_cityscapes_panoptic.py"),
}


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def ade20k(root: Path) -> None:
    """Wall, floor, other; a bed with a hole, and two people."""
    semantic = np.full(SIZE, 1, np.uint8)
    semantic[30:], semantic[:, 90:] = 4, 0
    objects = np.zeros((*SIZE, 3), np.uint8)
    objects[20:44, 10:40], objects[26:34, 20:28] = (1, 1, 0), 0
    objects[4:20, 50:60], objects[6:26, 70:80] = (4, 2, 0), (4, 3, 0)
    for red, value in ((1, 8), (4, 13)):
        semantic[objects[..., 0] == red] = value
    base = root / "ADEChallengeData2016"
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write(base / "annotations" / folder / f"{name}.png", semantic)
        write(base / "annotations_instance" / folder / f"{name}.png", objects)
        write(base / "images" / folder / f"{name}.jpg", picture())


def cityscapes(root: Path) -> None:
    """Road, sky, ego vehicle; two cars, one with a hole, a person, a group of cars, a caravan."""
    ids = np.full(SIZE, 7)
    ids[:16], ids[44:, :40] = 23, 1
    ids[20:40, 2:22], ids[26:30, 8:14], ids[18:38, 24:40] = 26000, 7, 26001
    ids[10:34, 44:54], ids[24:40, 60:76], ids[4:14, 80:94] = 24000, 26, 29000
    for split in ("train", "val"):
        labels = root / "cityscapes" / "gtFine" / split / "ulm" / f"{STEM}_gtFine"
        write(Path(f"{labels}_instanceIds.png"), ids.astype(np.uint16))
        plain = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
        write(Path(f"{labels}_labelIds.png"), plain)
        images = root / "cityscapes" / "leftImg8bit" / split / "ulm"
        write(images / f"{STEM}_leftImg8bit.png", picture())


BUILD = {"ade20k": ade20k, "cityscapes": cityscapes}


@pytest.fixture
def root(tmp_path):
    """A data root, below which the sets are registered anew; its path has a dot."""
    names = [n for n in DatasetCatalog.list() if n.startswith(("cityscapes_", "ade20k_"))]
    saved = {name: (DatasetCatalog[name], MetadataCatalog[name]) for name in names}
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    path = tmp_path / "v1.0"
    path.mkdir()
    for register in (
        register_all_cityscapes,
        register_all_cityscapes_panoptic,
        register_all_ade20k,
        register_all,
    ):
        register(str(path))
    yield path
    for name, (load, metadata) in saved.items():
        DatasetCatalog[name], MetadataCatalog[name] = load, metadata


def prepare(run, root: Path, family: str) -> None:
    BUILD[family](root)
    for script in SCRIPTS[family]:
        done = run(script, "--root", str(root))
        assert done.returncode == 0, done.stderr


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def test_cityscapes_segments_are_those_of_the_official_conversion(run, root):
    prepare(run, root, "cityscapes")
    base = root / "cityscapes" / "gtFine"
    content = read_json(base / "cityscapes_panoptic_val.json")
    (image,), (annotation,) = content["images"], content["annotations"]
    assert image == {
        "id": STEM,
        "file_name": f"{STEM}_gtFine_leftImg8bit.png",
        "height": 48,
        "width": 96,
    }
    assert annotation["image_id"] == STEM
    found = [(s["id"], s["category_id"], s["iscrowd"]) for s in annotation["segments_info"]]
    assert found == [
        (7, 7, 0),
        (23, 23, 0),
        (26, 26, 1),
        (24000, 24, 0),
        (26000, 26, 0),
        (26001, 26, 0),
    ]
    car = annotation["segments_info"][4]
    assert (car["area"], car["bbox"]) == (20 * 20 - 4 * 6, [2, 20, 20, 20])
    png = base / "cityscapes_panoptic_val" / annotation["file_name"]
    drawn = rgb_to_ids(np.asarray(Image.open(png)))
    raw = np.asarray(Image.open(base / "val" / "ulm" / f"{STEM}_gtFine_instanceIds.png"))
    assert np.array_equal(drawn, np.where(np.isin(raw, [1, 29000]), 0, raw))
    categories = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
    assert len(categories) == 19
    assert (categories[7], categories[26]) == (("road", 0), ("car", 1))


def test_cityscapes_objects_keep_their_holes_and_groups_are_crowds(run, root):
    prepare(run, root, "cityscapes")
    (record,) = DatasetCatalog.get("cityscapes_fine_instance_seg_val")
    images = root / "cityscapes" / "leftImg8bit" / "val"
    assert record["file_name"] == str(images / "ulm" / f"{STEM}_leftImg8bit.png")
    found = [(a["category_id"], a["iscrowd"]) for a in record["annotations"]]
    assert found == [(2, 1), (0, 0), (2, 0), (2, 0)]
    objects = InstanceMapper([], num_classes=8)(record)["instances"]
    assert objects.gt_classes.tolist() == [0, 2, 2]
    assert objects.gt_masks.tensor.sum((1, 2)).tolist() == [240, 376, 320]


def test_cityscapes_records_are_detectron2s(run, root, monkeypatch):
    prepare(run, root, "cityscapes")
    (record,) = DatasetCatalog.get("cityscapes_fine_panoptic_val")
    for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
        assert Path(record[key]).is_file()
    monkeypatch.chdir(root)  # a path without a dot, for theirs
    labels = Path("cityscapes/gtFine")
    (theirs,) = load_cityscapes_panoptic(
        "cityscapes/leftImg8bit/val",
        str(labels / "cityscapes_panoptic_val"),
        str(labels / "cityscapes_panoptic_val.json"),
        MetadataCatalog.get("cityscapes_fine_panoptic_val").as_dict(),
    )
    assert theirs["image_id"] == record["image_id"]
    for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
        assert root / theirs[key] == Path(record[key])
    segments = [{k: v for k, v in s.items() if k != "isthing"} for s in record["segments_info"]]
    assert segments == theirs["segments_info"]
    assert [s["isthing"] for s in record["segments_info"]] == [False] * 2 + [True] * 4


@pytest.mark.parametrize("family", ["ade20k", "cityscapes"])
def test_a_second_run_writes_nothing_and_an_interrupted_one_goes_on(run, root, family):
    prepare(run, root, family)
    script = SCRIPTS[family][1]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*.*") if p.is_file()}
    again = run(script, "--root", str(root))
    assert again.stdout.count(": 0 files written, 1 images in all") == 2
    assert "note: the published train split has" in again.stderr
    pictures = [p for p in before if p.suffix == ".png"]
    content = {p: p.read_bytes() for p in before if p.suffix == ".json"}
    for path in content:
        path.unlink()
    removed = next(p for p in pictures if "panoptic_val" in str(p))
    removed.unlink()
    done = run(script, "--root", str(root), "--splits", "val")
    assert "val: 1 files written, 1 images in all" in done.stdout
    done = run(script, "--root", str(root), "--splits", "train")
    assert "train: 0 files written, 1 images in all" in done.stdout
    assert {p: p.read_bytes() for p in content} == content
    assert removed.read_bytes() == before[removed][1]
    for path in set(pictures) - {removed}:
        assert path.stat().st_mtime_ns == before[path][0]


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("cityscapes", "cityscapes_fine_instance_seg_val", "prepare_cityscapes_panoptic.py makes"),
        ("cityscapes", "cityscapes_fine_panoptic_val", "DETECTRON2_DATASETS"),
        ("ade20k", "ade20k_panoptic_val", "DETECTRON2_DATASETS"),
        ("ade20k", "ade20k_instance_val", "does not exist"),
    ],
)
def test_what_is_missing_is_named(run, root, family, name, message):
    done = run(SCRIPTS[family][1], "--root", str(root))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and str(root) in line
    with pytest.raises(FileNotFoundError, match=message) as error:
        DatasetCatalog.get(name)
    assert str(root) in str(error.value)


def test_a_value_that_is_no_label_is_named(run, root):
    cityscapes(root)
    path = root / "cityscapes" / "gtFine" / "train" / "ulm" / f"{STEM}_gtFine_instanceIds.png"
    write(path, np.full(SIZE, 34001, np.uint16))
    done = run("prepare_cityscapes_panoptic.py", "--root", str(root))
    assert done.returncode == 1
    assert f"{path} has value 34001, which is no label of Cityscapes" in done.stderr
    assert not (root / "cityscapes" / "gtFine" / "cityscapes_panoptic_train.json").exists()


def loaders(name: str, output_dir: Path):
    """The loaders and evaluators of a file in ``configs/common/data``."""
    path = configs_root() / "common" / "data" / f"{name}.py"
    cfg = LazyConfig.load(str(path))
    cfg.train = {"output_dir": str(output_dir)}
    return cfg.dataloader


def prediction(target: dict, num_classes: int, things: set[int], shift: int) -> dict:
    """A training target as a prediction; a shift gives every segment a wrong class."""
    truth = target["instances"]
    classes = (truth.gt_classes + shift) % num_classes
    is_thing = torch.tensor([int(c) in things for c in classes])
    objects = Instances(truth.image_size)
    objects.pred_masks = truth.gt_masks.tensor[is_thing]
    objects.pred_boxes = truth.gt_boxes[is_thing]
    objects.pred_classes, objects.scores = classes[is_thing], torch.ones(int(is_thing.sum()))
    output = {"instances": objects}
    if "sem_seg" in target:
        ids, infos = torch.zeros(truth.image_size, dtype=torch.int32), []
        for number, mask in enumerate(truth.gt_masks.tensor, start=1):
            ids[mask] = number
            label, kind = int(classes[number - 1]), bool(is_thing[number - 1])
            infos.append({"id": number, "category_id": label, "isthing": kind})
        semantic = target["sem_seg"].where(target["sem_seg"] < num_classes, 0)
        scores = torch.nn.functional.one_hot((semantic + shift) % num_classes, num_classes)
        output |= {"panoptic_seg": (ids, infos), "sem_seg": scores.permute(2, 0, 1)}
    return output


def score(loader, mapper, num_classes: int, shift: int) -> dict:
    """Results of the config's own evaluators on ground truth."""
    name = loader.test.dataset.names
    things = set(MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id.values())
    evaluators = [instantiate(evaluator) for evaluator in loader.evaluator]
    if shift:  # pictures take longer than all metrics
        evaluators = [e for e in evaluators if not isinstance(e, PictureWriter)]
    test = instantiate(loader.test.mapper)
    results: dict = {}
    for evaluator in evaluators:
        evaluator.reset()
    for record in instantiate(loader.test.dataset):
        output = prediction(mapper(record), num_classes, things, shift)
        for evaluator in evaluators:
            evaluator.process([test(record)], [output])
    for evaluator in evaluators:
        results.update(evaluator.evaluate() or {})
    return results


CASES = [  # data of a config, classes, objects and segments of the training image
    ("ade20k_panoptic", 150, [0, 3, 7, 12, 12], {"panoptic_seg": "PQ", "sem_seg": "mIoU"}),
    ("ade20k_instance", 100, [0, 3, 3], {"bbox": "AP", "segm": "AP"}),
    ("cityscapes_panoptic", 19, [0, 10, 11, 13, 13], {"panoptic_seg": "PQ", "sem_seg": "mIoU"}),
    ("cityscapes_instance", 8, [0, 2, 2], {"segm": "AP"}),
]


@pytest.mark.parametrize(("data", "num_classes", "classes", "metrics"), CASES)
def test_a_prepared_set_is_mapped_and_scored(
    run, root, tmp_path, data, num_classes, classes, metrics
):
    prepare(run, root, data.partition("_")[0])
    loader = loaders(data, tmp_path / "out")
    (record,) = instantiate(loader.train.dataset)
    kind = PanopticMapper if data.endswith("panoptic") else InstanceMapper
    mapper = kind([], num_classes=loader.train.mapper.num_classes)
    assert sorted(mapper(record)["instances"].gt_classes.tolist()) == classes
    for shift, expected in ((0, 100), (1, 0)):
        results = score(loader, mapper, num_classes, shift)
        found = {task: results[task][metric] for task, metric in metrics.items()}
        assert found == pytest.approx(dict.fromkeys(metrics, expected), abs=1e-6)
        if "panoptic_seg" in metrics and shift == 0:  # the tasks of the objects too
            assert results["segm"]["AP"] == pytest.approx(100)
            assert set(results) == {"panoptic_seg", "sem_seg", "segm"} | (
                {"bbox"} if data.startswith("ade") else set()
            )
    assert (tmp_path / "out" / "pictures" / "gallery.png").is_file()


def test_stuff_below_things_is_no_error(run, root):
    """Its area is that before the things were pasted, and nothing of it may be left."""
    ade20k(root)
    labels = root / "ADEChallengeData2016" / "annotations" / "validation"
    for file in labels.iterdir():
        semantic = np.array(Image.open(file))
        semantic[21:25, 11:19] = 3  # sky, all of it below the bed
        semantic[36:40, 36:44] = 2  # building, half of it
        write(file, semantic)
    for script in SCRIPTS["ade20k"]:
        assert run(script, "--root", str(root)).returncode == 0
    report = check_dataset("ade20k_panoptic_val", workers=0)
    assert [finding.kind for finding in report.errors] == ["other number of images"]
    assert any("cover completely: " in str(finding) for finding in report.findings)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        ("ade20k_panoptic", (640, 640)),
        ("ade20k_instance", (640, 640)),
        ("cityscapes_panoptic", (512, 1024)),
        ("cityscapes_instance", (512, 1024)),
    ],
)
def test_crops_have_the_published_size(run, root, tmp_path, data, size):
    prepare(run, root, data.partition("_")[0])
    loader = loaders(data, tmp_path)
    (record,) = instantiate(loader.train.dataset)
    resize = loader.train.mapper.augmentations[0]
    assert len(resize.short_edge_length) == 16
    resize.short_edge_length = resize.short_edge_length[:1]  # the smallest, which needs the padding
    output = instantiate(loader.train.mapper)(record)
    assert output["image"].shape == (3, *size)
    assert output["instances"].gt_masks.tensor.shape[1:] == size
