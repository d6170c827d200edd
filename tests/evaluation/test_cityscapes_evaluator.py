"""Instance AP of Cityscapes, against the benchmark's own script and by hand."""

import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from pycocotools import mask as coco_mask

from vitadapter_d2.evaluation import CityscapesInstanceEvaluator

REFERENCE = Path(__file__).parents[1] / "data" / "reference" / "cityscapes_instance_ap.json"
THINGS = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
ROAD, CAR_GROUP, CAR, OTHER_CAR, PERSON, TRAILER, VOID = 7, 26, 26000, 26001, 24000, 30, 4


class Scenes:
    """Label maps in the layout of Cityscapes, and an evaluator of them."""

    def __init__(self, root: Path, classes=THINGS):
        self.root, self.classes = root, list(classes)
        self.name = f"scenes_{root.name}"
        MetadataCatalog.get(self.name).set(thing_classes=self.classes, gt_dir=str(root))
        self.evaluator = CityscapesInstanceEvaluator(self.name)
        self.count = 0

    def add(self, ids: np.ndarray, *predictions: tuple[str, np.ndarray, float]) -> None:
        stem = f"ulm_{self.count:06d}_000019"
        self.count += 1
        (self.root / "ulm").mkdir(exist_ok=True)
        path = self.root / "ulm" / f"{stem}_gtFine_instanceIds.png"
        Image.fromarray(ids.astype(np.uint16)).save(path)
        instances = Instances(ids.shape)
        masks = [mask for _, mask, _ in predictions]
        instances.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(-1, *ids.shape))
        classes = [self.classes.index(name) for name, _, _ in predictions]
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
        instances.scores = torch.tensor([s for *_, s in predictions], dtype=torch.float64)
        record = {"file_name": f"images/ulm/{stem}_leftImg8bit.png"}
        self.evaluator.process([record], [{"instances": instances}])

    def metrics(self) -> dict[str, float]:
        return self.evaluator.evaluate()["segm"]


@pytest.fixture
def scenes(tmp_path):
    made = Scenes(tmp_path)
    yield made
    MetadataCatalog.remove(made.name)


@pytest.fixture
def ids():
    """Two cars of 400 pixels on a road, a person of 60, a group of cars, void."""
    ids = np.full((60, 100), ROAD)
    ids[:20, :20], ids[:20, 30:50], ids[30:36, :10] = CAR, OTHER_CAR, PERSON
    ids[30:60, 50:80], ids[:, 90:] = CAR_GROUP, VOID
    return ids


def box(top, left, bottom, right):
    mask = np.zeros((60, 100), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_it_agrees_with_the_benchmarks_own_script(scenes):
    case = json.loads(REFERENCE.read_text())
    for image in case["images"]:
        values, lengths = np.array(image["regions"]).T
        found = [
            (p["class"], coco_mask.decode(p["mask"]).astype(bool), p["score"])
            for p in image["predictions"]
        ]
        scenes.add(np.repeat(values, lengths).reshape(image["size"]), *found)
    metrics = scenes.metrics()
    assert metrics["AP"] == pytest.approx(case["AP"], abs=1e-9)
    assert metrics["AP50"] == pytest.approx(case["AP50"], abs=1e-9)


def test_ground_truth_scores_100(scenes, ids):
    scenes.add(ids, ("car", ids == CAR, 0.9), ("car", ids == OTHER_CAR, 0.3))
    metrics = scenes.metrics()
    assert metrics["AP"] == metrics["AP50"] == metrics["AP-car"] == pytest.approx(100)
    assert all(math.isnan(metrics[f"AP-{name}"]) for name in THINGS if name != "car")


def test_half_of_the_objects_is_half_of_the_score(scenes, ids):
    scenes.add(ids, ("car", ids == CAR, 0.9))
    # The last step of the curve, from (1/2, 1) to (0, 1), and half a step more.
    assert scenes.metrics()["AP"] == pytest.approx(50)


def test_a_double_is_wrong_whatever_its_score_and_order(scenes, ids):
    found = [("car", ids == CAR, 0.5), ("car", ids == OTHER_CAR, 0.5)]
    scenes.add(ids, *found, ("car", ids == CAR, 0.9))
    high = scenes.metrics()["AP"]
    scenes.evaluator.reset()
    scenes.add(ids, ("car", ids == CAR, 0.9), ("car", ids == OTHER_CAR, 0.9), *found[:1])
    low = scenes.metrics()["AP"]
    assert high < low < 100 + 1e-9
    assert high == pytest.approx(100 * (0.25 * 1 + 0.5 * 1 + 0.25 * 2 / 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("mask", "is_wrong"),
    [
        (box(30, 50, 45, 80), False),  # in the group
        (box(25, 50, 32, 80), True),  # five sevenths of it outside
        (box(0, 88, 60, 100), False),  # mostly void
        (box(30, 0, 36, 10), True),  # the person
        (box(40, 0, 50, 30), True),  # the road
        (box(0, 0, 0, 0), False),  # nothing
    ],
)
def test_what_lies_on_void_or_on_a_group_costs_nothing(scenes, ids, mask, is_wrong):
    right = [("car", ids == CAR, 0.8), ("car", ids == OTHER_CAR, 0.8)]
    scenes.add(ids, *right, ("car", mask, 0.9))
    assert (scenes.metrics()["AP50"] < 99) == is_wrong


def test_small_objects_count_neither_way(scenes, ids):
    scenes.add(ids, ("person", ids == PERSON, 0.9), ("car", ids == CAR, 0.9))
    metrics = scenes.metrics()
    assert math.isnan(metrics["AP-person"]) and metrics["AP"] == pytest.approx(50)


def test_a_small_group_counts_twice_as_in_the_benchmarks_own_script(scenes, ids):
    ids[ids == CAR_GROUP] = ROAD
    ids[40:46, 50:60] = CAR_GROUP
    right = [("car", ids == CAR, 0.8), ("car", ids == OTHER_CAR, 0.8)]
    scenes.add(ids, *right, ("car", box(40, 56, 50, 66), 0.9))  # 24 of its 100 pixels are ignored
    assert scenes.metrics()["AP50"] < 99
    scenes.evaluator.reset()
    scenes.add(ids, *right, ("car", box(40, 54, 50, 64), 0.9))  # 36 of 100, 72 when counted twice
    assert scenes.metrics()["AP50"] == pytest.approx(100)


def test_classes_are_known_by_name_and_stuff_is_left_out(tmp_path, ids):
    scenes = Scenes(tmp_path, ["road", "car", "person"])
    scenes.add(ids, ("car", ids == CAR, 0.9), ("car", ids == OTHER_CAR, 0.9), ("road", ids > 0, 1))
    assert scenes.metrics()["AP"] == pytest.approx(100)
    MetadataCatalog.remove(scenes.name)


def test_nothing_found_is_0_and_nothing_to_find_is_no_number(scenes, ids):
    scenes.add(np.full((60, 100), ROAD), ("car", box(0, 0, 20, 20), 0.5))
    assert math.isnan(scenes.metrics()["AP"])
    scenes.evaluator.reset()
    scenes.add(ids)
    assert scenes.metrics()["AP"] == 0
    scenes.evaluator.reset()
    assert math.isnan(scenes.metrics()["AP"])


def test_a_mask_of_another_size_and_a_missing_label_map_are_named(scenes, ids):
    scenes.add(ids)
    instances = Instances((5, 5))
    instances.pred_masks = torch.zeros(1, 5, 5, dtype=torch.bool)
    instances.pred_classes, instances.scores = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    for stem, error, message in (
        ("ulm_000000_000019", ValueError, r"have size \(5, 5\), its label map \(60, 100\)"),
        ("ulm_000009_000019", FileNotFoundError, r"ulm_000009_000019_gtFine_instanceIds\.png"),
    ):
        record = {"file_name": f"ulm/{stem}_leftImg8bit.png"}
        with pytest.raises(error, match=message):
            scenes.evaluator.process([record], [{"instances": instances}])


def see_one_image(rank, folder, ids):
    init = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    scenes = Scenes(folder / str(rank))
    scenes.add(ids, *([("car", ids == CAR, 0.9)] if rank else []))
    (folder / f"{rank}.json").write_text(json.dumps(scenes.evaluator.evaluate()))
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one(tmp_path, ids):
    fork = multiprocessing.get_context("fork")  # a new interpreter would import for seconds
    processes = [fork.Process(target=see_one_image, args=(r, tmp_path, ids)) for r in range(2)]
    for rank, process in enumerate(processes):
        (tmp_path / str(rank)).mkdir()
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert json.loads((tmp_path / "1.json").read_text()) is None
    assert json.loads((tmp_path / "0.json").read_text())["segm"]["AP"] == pytest.approx(25)
