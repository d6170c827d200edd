"""From the downloaded files of each set to a score, on tiny trees of the sets' own layouts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_ade20k, register_all_cityscapes
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from vitadapter_d2.data import SemanticMapper
from vitadapter_d2.data.checking.dataset import check_dataset
from vitadapter_d2.data.datasets import register_all
from vitadapter_d2.data.datasets.coco_stuff_categories import COCO_STUFF_CATEGORIES
from vitadapter_d2.data.datasets.mapillary_categories import MAPILLARY_CATEGORIES
from vitadapter_d2.data.datasets.pascal_context_categories import PASCAL_CONTEXT_CATEGORIES
from vitadapter_d2.data.datasets.potsdam import POTSDAM_SEMANTIC_CATEGORIES
from vitadapter_d2.data.preparing import potsdam as prepare_potsdam
from vitadapter_d2.engine.config.loading import configs_root
from vitadapter_d2.evaluation import SemanticEvaluator

Labels = dict[str, np.ndarray]
SIZE = (24, 36)
RNG = np.random.default_rng(0)


def write(path: Path, array: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image = image.convert("P") if array.ndim == 3 else _with_palette(array)
    image.save(path)


def _with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, mode="L").convert("P")
    image.putdata(indices.reshape(-1).tolist())
    image.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    return RNG.integers(0, 256, (*size, 3), dtype=np.uint8)


def draw(values: list[int]) -> np.ndarray:
    """Every value at least once, in a map of SIZE."""
    extra = RNG.choice(values, SIZE[0] * SIZE[1] - len(values))
    return RNG.permutation(np.concatenate([values, extra])).reshape(SIZE)


def look_up(raw: np.ndarray, mapping: dict[int, int]) -> np.ndarray:
    return np.vectorize(lambda value: mapping.get(value, 255))(raw)


def ade20k(root: Path) -> dict[str, Labels]:
    expected: dict[str, Labels] = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        raw, base = draw(list(range(151))), root / "ADEChallengeData2016"
        write(base / "images" / folder / "a.jpg", picture())
        write(base / "annotations" / folder / "a.png", raw.astype(np.uint8))
        expected[split] = {"a": np.where(raw == 0, 255, raw - 1)}
    return expected


def cityscapes(root: Path) -> dict[str, Labels]:
    expected: dict[str, Labels] = {}
    train_ids = {c["id"]: c["trainId"] for c in CITYSCAPES_CATEGORIES}
    for split in ("train", "val"):
        raw = draw(list(range(34)))
        labels = root / "cityscapes" / "gtFine" / split / "ulm"
        images = root / "cityscapes" / "leftImg8bit" / split / "ulm"
        write(images / "ulm_000000_000019_leftImg8bit.png", picture())
        for kind in ("labelIds", "instanceIds"):
            write(labels / f"ulm_000000_000019_gtFine_{kind}.png", raw.astype(np.uint8))
        polygons = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": []}
        file = labels / "ulm_000000_000019_gtFine_polygons.json"
        file.write_text(json.dumps(polygons))
        expected[split] = {"ulm_000000_000019_leftImg8bit": look_up(raw, train_ids)}
    return expected


def coco_stuff_10k(root: Path) -> dict[str, Labels]:
    base, expected = root / "coco" / "coco_stuff_10k", {}
    contiguous = {raw_id: i for i, (raw_id, _, _) in enumerate(COCO_STUFF_CATEGORIES)}
    for split, name in (("train", "COCO_train2014_000000000077"), ("test", "COCO_train2014_01")):
        raw = draw([0, *contiguous])
        write(base / "images" / f"{name}.jpg", picture())
        for folder in ("annotations", "imageLists"):
            (base / folder).mkdir(exist_ok=True)
        savemat(base / "annotations" / f"{name}.mat", {"S": raw.astype(np.uint8), "names": 0})
        (base / "imageLists" / f"{split}.txt").write_text(f"{name}\n")
        expected[split] = {name: look_up(raw, contiguous)}
    return expected


def coco_stuff_164k(root: Path) -> dict[str, Labels]:
    contiguous = {raw_id - 1: i for i, (raw_id, _, _) in enumerate(COCO_STUFF_CATEGORIES)}
    expected: dict[str, Labels] = {}
    for split in ("train", "val"):
        raw = draw([*contiguous, 255])
        write(root / "coco" / f"{split}2017" / "000000000139.jpg", picture())
        folder = root / "coco" / "stuffthingmaps" / f"{split}2017"
        write(folder / "000000000139.png", raw.astype(np.uint8))
        expected[split] = {"000000000139": look_up(raw, contiguous)}
    return expected


def pascal_context_of_mmsegmentation(root: Path) -> dict[str, Labels]:
    base, expected = root / "VOC2010", {}
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        raw = draw(list(range(60)))
        write(base / "JPEGImages" / f"{name}.jpg", picture())
        write(base / "SegmentationClassContext" / f"{name}.png", raw.astype(np.uint8))
        listing = base / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(f"{name}\n")
        expected[split] = {name: np.where(raw == 0, 255, raw - 1)}
    return expected


def pascal_context(root: Path) -> dict[str, Labels]:
    base, expected = root / "VOC2010", {}
    contiguous = {detail: i for i, (detail, _) in enumerate(PASCAL_CONTEXT_CATEGORIES)}
    images, segments = [], []
    for number, split in enumerate(("train", "val")):
        raw, name = draw([0, *contiguous]), f"2008_00000{number}"
        write(base / "JPEGImages" / f"{name}.jpg", picture())
        height, width = SIZE
        image = {"image_id": number, "file_name": f"{name}.jpg", "phase": split}
        images.append({**image, "height": height, "width": width})
        for detail in contiguous:
            code = coco_mask.encode(np.asfortranarray(raw == detail, dtype=np.uint8))
            code["counts"] = code["counts"].decode()
            segments.append({"image_id": number, "category_id": detail, "segmentation": code})
        expected[split] = {name: look_up(raw, contiguous)}
    content = {"images": images, "annos_segmentation": segments}
    (base / "trainval_merged.json").write_text(json.dumps(content))
    return expected


def mapillary(root: Path) -> dict[str, Labels]:
    cityscapes_ids = {c["name"]: c["trainId"] for c in CITYSCAPES_CATEGORIES}
    contiguous = {i: cityscapes_ids.get(row[3], 255) for i, row in enumerate(MAPILLARY_CATEGORIES)}
    expected: dict[str, Labels] = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        raw = draw(list(range(66)))
        write(root / "mapillary_vistas" / folder / "images" / "a.jpg", picture())
        path = root / "mapillary_vistas" / folder / "labels" / "a.png"
        write(path, raw.astype(np.uint8), palette=True)
        expected[split] = {"a": look_up(raw, contiguous)}
    return expected


def potsdam(root: Path) -> dict[str, Labels]:
    """One tile per split, 600 x 1100 pixels: 2 x 3 crops."""
    base, expected = root / "potsdam", {}
    colors = np.array([*(c.color for c in POTSDAM_SEMANTIC_CATEGORIES), (0, 0, 0), (252, 255, 0)])
    for split, tile in (("train", "2_10"), ("val", "02_13")):
        rgb = picture((600, 1100))
        classes = RNG.integers(0, 8, (600, 1100))
        write(base / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tif", rgb)
        folder = base / "5_Labels_all_noBoundary"
        file = folder / f"top_potsdam_{tile}_label_noBoundary.tif"
        write(file, colors[classes].astype(np.uint8))
        classes[classes > 5] = 255
        expected[split] = {
            f"{tile.removeprefix('0')}_{x}_{y}_{x + 512}_{y + 512}": classes[
                y : y + 512, x : x + 512
            ]
            for y in (0, 88)
            for x in (0, 512, 588)
        }
    return expected


def potsdam_of_mmsegmentation(root: Path) -> dict[str, Labels]:
    expected: dict[str, Labels] = {}
    for split in ("train", "val"):
        raw, name = draw(list(range(7))), "2_10_0_0_512_512"
        write(root / "potsdam" / "img_dir" / split / f"{name}.png", picture())
        write(root / "potsdam" / "ann_dir" / split / f"{name}.png", raw.astype(np.uint8))
        expected[split] = {name: np.where(raw == 0, 255, raw - 1)}
    return expected


def chase_db1(root: Path) -> dict[str, Labels]:
    base, expected = root / "CHASE_DB1", {"train": {}, "val": {}}
    for number in range(28):
        name = f"Image_{number // 2 + 1:02d}{'LR'[number % 2]}"
        raw = draw([0, 100, 128, 255]).astype(np.uint8)
        write(base / f"{name}.jpg", picture())
        write(base / f"{name}_1stHO.png", raw)
        write(base / f"{name}_2ndHO.png", 255 - raw)
        expected["train" if number < 20 else "val"][name] = (raw >= 128).astype(int)
    return expected


@dataclass(frozen=True)
class Case:
    build: Callable[[Path], dict[str, Labels]]
    script: str
    config: str
    names: dict[str, str]


def case(build: Callable, script: str, config: str, name: str, splits: str = "train val") -> Case:
    return Case(build, script, config, {s: name.format(s) for s in splits.split()})


_MAPILLARY = "mapillary_vistas_cityscapes_sem_seg_{}"
CASES = [
    case(ade20k, "ade20k_sem_seg", "ade20k", "ade20k_sem_seg_{}"),
    case(cityscapes, "cityscapes", "cityscapes", "cityscapes_fine_sem_seg_{}"),
    case(
        coco_stuff_10k,
        "coco_stuff_10k",
        "coco_stuff_10k",
        "coco_2017_{}_stuff_10k_sem_seg",
        "train test",
    ),
    case(coco_stuff_164k, "coco_stuff_164k", "coco_stuff_164k", "coco_2017_{}_stuff_164k_sem_seg"),
    case(pascal_context, "pascal_context", "pascal_context", "pascal_context_59_sem_seg_{}"),
    case(
        pascal_context_of_mmsegmentation,
        "pascal_context",
        "pascal_context",
        "pascal_context_59_sem_seg_{}",
    ),
    case(mapillary, "mapillary_cityscapes", "mapillary", _MAPILLARY),
    case(potsdam, "potsdam", "potsdam", "potsdam_sem_seg_{}"),
    case(potsdam_of_mmsegmentation, "potsdam", "potsdam", "potsdam_sem_seg_{}"),
    case(chase_db1, "chase_db1", "chase_db1", "chase_db1_sem_seg_{}"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root, empty, below which every set is registered anew."""
    tiles = {"train": ("2_10",), "val": ("2_13",)}
    monkeypatch.setattr(prepare_potsdam, "POTSDAM_TILES", tiles)
    own = {name for c in CASES for name in c.names.values()}
    names = own | {n for n in DatasetCatalog.list() if n.startswith(("cityscapes_", "ade20k_"))}
    names |= {f"mapillary_vistas_sem_seg_{split}" for split in ("train", "val")}
    saved = {name: (DatasetCatalog[name], MetadataCatalog[name]) for name in names}
    panoptic = [name for name in names if "panoptic" in name or "ade20k_instance" in name]
    for name in names - set(panoptic):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_all_cityscapes(str(tmp_path))
    register_all_ade20k(str(tmp_path))
    register_all(str(tmp_path))
    yield tmp_path
    for name, (load, metadata) in saved.items():
        DatasetCatalog[name], MetadataCatalog[name] = load, metadata


def dataloader(case: Case, **options) -> DictConfig:
    """What a config file gets when it calls the builder of the set."""
    name = f"{case.config}_semantic"
    path = configs_root() / "common" / "data" / f"{name}.py"
    loaders = LazyConfig.load(str(path), name)(**options)
    return OmegaConf.create(loaders, flags={"allow_objects": True})


@each_case
def test_a_script_converts_every_label_once(run, root, case):
    expected = case.build(root)
    done = run(f"prepare_{case.script}.py", "--root", str(root))
    assert done.returncode == 0, done.stderr
    for split, name in case.names.items():
        count = len(expected[split])
        assert f"{split}: {count} files written, {count} in all" in done.stdout
        assert f"note: the published {split} split has" in done.stderr or count in (20, 8)
        records = DatasetCatalog.get(name)
        assert {Path(r["file_name"]).stem for r in records} == set(expected[split])
        for record in records:
            labels = np.asarray(Image.open(record["sem_seg_file_name"]))
            assert labels.dtype == np.uint8
            assert np.array_equal(labels, expected[split][Path(record["file_name"]).stem])
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    again = run(f"prepare_{case.script}.py", "--root", str(root))
    assert again.returncode == 0
    assert again.stdout.count(": 0 files written") == len(case.names)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.*")} == files


def one_hot(labels: np.ndarray, num_classes: int, shift: int = 0) -> torch.Tensor:
    classes = torch.from_numpy(labels.astype(np.int64))
    classes = (classes.where(classes < num_classes, 0) + shift) % num_classes
    return torch.nn.functional.one_hot(classes, num_classes).permute(2, 0, 1).float()


@each_case
def test_a_prepared_set_is_mapped_and_scored(run, root, case, tmp_path):
    expected = case.build(root)
    assert run(f"prepare_{case.script}.py", "--root", str(root)).returncode == 0
    loaders = dataloader(case, crop=64, has_masks=True)
    train = instantiate(loaders["train"].dataset)
    mapper = instantiate(loaders["train"].mapper)
    np.random.seed(0)
    output = mapper(train[0])
    assert output["image"].shape == (3, 64, 64) and output["sem_seg"].shape == (64, 64)
    num_classes = loaders["train"].mapper.num_classes
    present = set(output["sem_seg"].unique().tolist()) - {255}
    assert present and max(present) < num_classes
    assert set(output["instances"].gt_classes.tolist()) == present
    if case.build is mapillary:  # tested on Cityscapes
        expected = cityscapes(root)
        assert run("prepare_cityscapes.py", "--root", str(root)).returncode == 0
    evaluator_config = loaders["evaluator"][0]
    evaluator_config.output_dir = str(tmp_path / "inference")
    evaluator = instantiate(evaluator_config)
    assert len(evaluator.class_names) == num_classes
    split = "test" if "test" in case.names else "val"
    test = instantiate(loaders["test"].mapper)
    for shift, score in ((0, 100.0), (1, 0.0)):
        evaluator.reset()
        for record in instantiate(loaders["test"].dataset):
            item = test(record)
            labels = expected[split][Path(record["file_name"]).stem]
            assert item["image"].shape[1:] == labels.shape
            prediction = one_hot(labels, num_classes, shift)
            evaluator.process([item], [{"sem_seg": prediction}])
        metrics = evaluator.evaluate()["sem_seg"]
        assert metrics["mIoU"] == metrics["aAcc"] == metrics["mDice"] == score


@each_case
def test_a_prepared_set_passes_the_check(run, root, case):
    case.build(root)
    assert run(f"prepare_{case.script}.py", "--root", str(root)).returncode == 0
    for name in case.names.values():
        report = check_dataset(name, images=None, workers=0)
        assert report.decoded == report.images > 0
        assert {f.kind for f in report.errors} <= {"other number of images"}, report.findings
        assert min(report.class_counts.values()) >= 1
    path = Path(report.records[0]["sem_seg_file_name"])
    labels = np.asarray(Image.open(path)).copy()
    labels[3, 4] = 254
    write(path, labels)
    found = {f.kind: f.examples for f in check_dataset(name, images=None, workers=0).errors}
    found.pop("other number of images", None)
    kind = f"label map with a value that is no class of {len(report.class_counts)}"
    assert found == {kind: (f"{path} has [254]",)}


@each_case
def test_without_the_download_the_error_is_one_line_that_names_the_path(run, root, case):
    done = run(f"prepare_{case.script}.py", "--root", str(root))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and str(root) in line
    name = next(iter(case.names.values()))
    with pytest.raises((FileNotFoundError, AssertionError)) as error:
        DatasetCatalog.get(name)
    assert str(root) in str(error.value)


@pytest.mark.parametrize(
    ("build", "script", "folder", "value"),
    [
        (cityscapes, "cityscapes", "cityscapes/gtFine/train", 34),
        (coco_stuff_164k, "coco_stuff_164k", "coco/stuffthingmaps/train2017", 11),
        (pascal_context_of_mmsegmentation, "pascal_context", "VOC2010", 60),
        (mapillary, "mapillary_cityscapes", "mapillary_vistas/training/labels", 66),
        (potsdam_of_mmsegmentation, "potsdam", "potsdam/ann_dir/train", 7),
    ],
)
def test_a_wrong_value_is_named_with_its_file(run, root, build, script, folder, value):
    build(root)
    files = [f for f in sorted((root / folder).rglob("*.png")) if "leftImg8bit" not in f.name]
    for file in files:
        bad = np.zeros(SIZE, np.uint8)
        bad[3, 4] = value
        write(file, bad)
    done = run(f"prepare_{script}.py", "--root", str(root))
    assert done.returncode == 1
    assert f".png has value {value}, legal ones are 0" in done.stderr
    assert str(root / folder) in done.stderr.splitlines()[-1]


def test_a_wrong_category_of_pascal_in_detail_is_named(run, root):
    pascal_context(root)
    path = root / "VOC2010" / "trainval_merged.json"
    path.write_text(path.read_text().replace('"category_id": 9,', '"category_id": 10,'))
    done = run("prepare_pascal_context.py", "--root", str(root))
    assert done.returncode == 1
    assert "trainval_merged.json, image 2008_000000.jpg, has value 10" in done.stderr
    path.write_text('{"images": []}')
    done = run("prepare_pascal_context.py", "--root", str(root))
    assert "lacks 'annos_segmentation'" in done.stderr


def test_colour_pictures_instead_of_label_maps_are_refused(run, root):
    ade20k(root)
    path = root / "ADEChallengeData2016" / "annotations" / "training" / "a.png"
    write(path, picture())
    done = run("prepare_ade20k_sem_seg.py", "--root", str(root))
    assert f"{path} must have one channel" in done.stderr
    write(path, picture(), palette=True)
    done = run("prepare_ade20k_sem_seg.py", "--root", str(root))
    assert f"{path} is a palette image" in done.stderr
    potsdam(root)
    path = next((root / "potsdam" / "5_Labels_all_noBoundary").glob("*2_10*"))
    write(path, picture((600, 1100)))
    done = run("prepare_potsdam.py", "--root", str(root))
    assert f"{path} is no label picture: it has colour" in done.stderr


@pytest.mark.parametrize(
    ("build", "script", "pattern"),
    [
        (chase_db1, "chase_db1", "CHASE_DB1/Image_01L.jpg"),
        (chase_db1, "chase_db1", "CHASE_DB1/Image_01L_1stHO.png"),
        (potsdam, "potsdam", "potsdam/2_Ortho_RGB/*2_10*"),
        (potsdam, "potsdam", "potsdam/5_Labels_all_noBoundary/*2_10*"),
        (mapillary, "mapillary_cityscapes", "mapillary_vistas/training/labels/*.png"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(run, root, build, script, pattern):
    build(root)
    path = next(root.glob(pattern))
    path.write_bytes(path.read_bytes()[:-60])
    done = run(f"prepare_{script}.py", "--root", str(root))
    assert done.returncode == 1
    assert f"{path} cannot be read: " in done.stderr.splitlines()[-1]


def test_other_releases_of_coco_stuff_10k_are_named(run, root):
    coco_stuff_10k(root)
    path = next((root / "coco" / "coco_stuff_10k" / "annotations").glob("*77.mat"))
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    path.write_bytes(header + bytes(512))
    done = run("prepare_coco_stuff_10k.py", "--root", str(root))
    assert f"{path} belongs to version 1.0" in done.stderr
    path.write_bytes(b"nothing of the kind" * 20)
    done = run("prepare_coco_stuff_10k.py", "--root", str(root))
    assert f"{path} is no label map of COCO-Stuff 10K" in done.stderr
    path.unlink()
    done = run("prepare_coco_stuff_10k.py", "--root", str(root))
    assert f"{path} does not exist" in done.stderr


def test_an_interrupted_conversion_is_noticed_and_completed(run, root):
    expected = chase_db1(root)["val"]
    assert run("prepare_chase_db1.py", "--root", str(root)).returncode == 0
    labels = root / "CHASE_DB1" / "annotations" / "validation"
    lost = labels / "Image_12R_1stHO.png"
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"Image_12R_1stHO\.png.*1 of 8 images have none"):
        DatasetCatalog.get("chase_db1_sem_seg_val")
    done = run("prepare_chase_db1.py", "--root", str(root), "--splits", "val")
    assert "val: 1 files written, 8 in all" in done.stdout
    assert np.array_equal(np.asarray(Image.open(lost)), expected["Image_12R"])
    (root / "CHASE_DB1" / "images" / "validation" / "Image_12R.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Image_12R\.png does not exist, the image of"):
        DatasetCatalog.get("chase_db1_sem_seg_val")


@pytest.mark.parametrize(
    ("build", "script", "image"),
    [
        (chase_db1, "chase_db1", "CHASE_DB1/images/validation/Image_12R.png"),
        (potsdam, "potsdam", "potsdam/img_dir/val/2_13_0_0_512_512.png"),
        (coco_stuff_10k, "coco_stuff_10k", "coco/coco_stuff_10k/images_detectron2/test/*.jpg"),
    ],
)
def test_an_image_that_was_lost_is_made_again(run, root, build, script, image):
    build(root)
    assert run(f"prepare_{script}.py", "--root", str(root)).returncode == 0
    path = next(root.glob(image))
    content = path.read_bytes()
    path.unlink()
    assert run(f"prepare_{script}.py", "--root", str(root)).returncode == 0
    assert path.read_bytes() == content


def test_mapillary_is_read_as_downloaded_with_its_own_classes(root):
    mapillary(root)
    name = "mapillary_vistas_sem_seg_val"
    metadata = MetadataCatalog.get(name)
    assert (metadata.ignore_label, len(metadata.stuff_classes)) == (65, 65)
    (record,) = DatasetCatalog.get(name)
    mapper = SemanticMapper([], num_classes=65, ignore_label=65, allow_palette=True)
    raw = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert np.array_equal(mapper(record)["sem_seg"].numpy(), raw)
    evaluator = SemanticEvaluator(name)
    evaluator.process([record], [{"sem_seg": one_hot(raw, 65)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
