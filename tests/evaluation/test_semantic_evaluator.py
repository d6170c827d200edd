import json
import math
import multiprocessing

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image
from torch.nn.functional import one_hot

from vitadapter_d2.evaluation import SemanticEvaluator
from vitadapter_d2.evaluation import semantic as module
from vitadapter_d2.evaluation.semantic import confusion_matrix, semantic_metrics

NAMES = ["sky", "sea", "sand ", "ship"]
K = len(NAMES)


class TinySet:
    """Label maps in a folder, registered under a name; predictions are made up."""

    def __init__(self, folder, labels, predicted, ignore_label=255):
        self.name = f"tiny_{folder.name}"
        self.predicted = predicted
        self.records = []
        for number, array in enumerate(labels):
            path = folder / f"{number}.png"
            Image.fromarray(array.astype(np.uint8)).save(path)
            record = {"file_name": f"{number}.jpg", "sem_seg_file_name": str(path)}
            self.records.append(record)
        self.register(ignore_label)

    def register(self, ignore_label=255):
        DatasetCatalog.register(self.name, lambda: self.records)
        MetadataCatalog.get(self.name).set(stuff_classes=NAMES, ignore_label=ignore_label)

    def outputs(self):
        scores = [one_hot(torch.from_numpy(p), K).permute(2, 0, 1).float() for p in self.predicted]
        return [{"sem_seg": score} for score in scores]

    def evaluate(self, evaluator):
        evaluator.reset()
        for record, output in zip(self.records, self.outputs(), strict=True):
            evaluator.process([record], [output])
        return evaluator.evaluate()["sem_seg"]


@pytest.fixture
def tiny(tmp_path):
    made = []

    def make(labels, predicted, **options):
        made.append(TinySet(tmp_path, labels, predicted, **options))
        return made[0]

    yield make
    for one in made:
        DatasetCatalog.remove(one.name)
        MetadataCatalog.remove(one.name)


def random_maps(count, classes=K, seed=0, ignored=0.2):
    rng = np.random.default_rng(seed)
    sizes = [(7 + i, 11 - i) for i in range(count)]
    labels = [rng.integers(0, classes, size) for size in sizes]
    predicted = [
        np.where(rng.random(x.shape) < 0.6, x, rng.integers(0, K, x.shape)) for x in labels
    ]
    for array in labels:
        array[rng.random(array.shape) < ignored] = 255
    return labels, predicted


def by_counting_pixels(labels, predicted):
    """The definitions, one pixel after the other."""
    pairs = [
        (int(t), int(p))
        for truth, guess in zip(labels, predicted, strict=True)
        for t, p in zip(truth.flat, guess.flat, strict=True)
        if t != 255
    ]
    iou, accuracy, dice, share = {}, {}, {}, {}
    for k in range(K):
        both = sum(t == k and p == k for t, p in pairs)
        either = sum(t == k or p == k for t, p in pairs)
        truth, guess = sum(t == k for t, _ in pairs), sum(p == k for _, p in pairs)
        share[k] = truth / len(pairs)
        if either:
            iou[k], dice[k] = 100 * both / either, 200 * both / (truth + guess)
        if truth:
            accuracy[k] = 100 * both / truth
    mean = {
        name: sum(v.values()) / len(v) for name, v in (("i", iou), ("a", accuracy), ("d", dice))
    }
    return {
        "mIoU": mean["i"],
        "mAcc": mean["a"],
        "mACC": mean["a"],
        "mDice": mean["d"],
        "aAcc": 100 * sum(t == p for t, p in pairs) / len(pairs),
        "pACC": 100 * sum(t == p for t, p in pairs) / len(pairs),
        "fwIoU": sum(iou.get(k, 0) * share[k] for k in range(K)),
        **{f"IoU-{NAMES[k].strip()}": iou.get(k, math.nan) for k in range(K)},
        **{f"ACC-{NAMES[k].strip()}": accuracy.get(k, math.nan) for k in range(K)},
        **{f"Dice-{NAMES[k].strip()}": dice.get(k, math.nan) for k in range(K)},
    }


@pytest.mark.parametrize("classes", [K, K - 1, 1])
def test_metrics_follow_the_definitions(tiny, classes):
    labels, predicted = random_maps(3, classes)
    data = tiny(labels, predicted)
    metrics = data.evaluate(SemanticEvaluator(data.name))
    assert metrics == pytest.approx(by_counting_pixels(labels, predicted), nan_ok=True)


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not(tiny):
    labels, predicted = [np.array([[0, 0, 1, 1]])], [np.array([[0, 0, 1, 2]])]
    data = tiny(labels, predicted)
    metrics = data.evaluate(SemanticEvaluator(data.name))
    assert metrics["mIoU"] == pytest.approx((100 + 50 + 0) / 3)
    assert metrics["mDice"] == pytest.approx((100 + 200 / 3 + 0) / 3)
    assert metrics["mAcc"] == pytest.approx((100 + 50) / 2)
    assert metrics["IoU-sand"] == 0 and math.isnan(metrics["ACC-sand"])
    assert math.isnan(metrics["IoU-ship"])


def test_it_agrees_with_detectron2_where_its_versions_agree(tiny):
    labels, predicted = random_maps(4)  # every class is annotated
    data = tiny(labels, predicted)
    ours = data.evaluate(SemanticEvaluator(data.name))
    theirs = data.evaluate(SemSegEvaluator(data.name, distributed=False))
    theirs = {key.strip(): value for key, value in theirs.items() if "oundary" not in key}
    theirs = {key: value for key, value in theirs.items() if not key.startswith("min(")}
    assert set(theirs) <= set(ours)
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs)


def test_ignored_pixels_cost_nothing(tiny):
    labels, predicted = random_maps(2)
    other = [np.where(t == 255, (p + 1) % K, p) for t, p in zip(labels, predicted, strict=True)]
    data = tiny(labels, predicted)
    before = data.evaluate(SemanticEvaluator(data.name))
    data.predicted = other
    assert data.evaluate(SemanticEvaluator(data.name)) == before


def test_scores_and_classes_are_both_taken(tiny):
    labels, predicted = random_maps(1)
    data = tiny(labels, predicted)
    first = data.evaluate(SemanticEvaluator(data.name))
    data.outputs = lambda: [{"sem_seg": torch.from_numpy(p)} for p in predicted]
    assert data.evaluate(SemanticEvaluator(data.name)) == first


def test_large_maps_are_counted_in_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 7)
    (labels,), (predicted,) = random_maps(1)
    counts = confusion_matrix(labels, predicted, K, 255)
    expected = np.zeros((K, K), np.int64)
    for truth, guess in zip(labels.flat, predicted.flat, strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    assert np.array_equal(counts, expected)


def test_counts_beyond_32_bits_stay_exact():
    confusion = np.array([[2**40, 0], [1, 2**40]])
    assert semantic_metrics(confusion, ["a", "b"])["mIoU"] == pytest.approx(100, abs=1e-9)
    assert semantic_metrics(confusion, ["a", "b"])["mIoU"] < 100


def count_half(rank, folder):
    """Each of two processes sees every second image; all say what they got."""
    init = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    labels, predicted = random_maps(4)
    data = TinySet(folder / str(rank), labels, predicted)
    evaluator = SemanticEvaluator(data.name)
    mine = slice(rank, None, 2)
    evaluator.process(data.records[mine], data.outputs()[mine])
    (folder / f"{rank}.json").write_text(json.dumps(evaluator.evaluate()))
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one(tmp_path):
    fork = multiprocessing.get_context("fork")  # a new interpreter would import for seconds
    processes = [fork.Process(target=count_half, args=(rank, tmp_path)) for rank in range(2)]
    for rank, process in enumerate(processes):
        (tmp_path / str(rank)).mkdir()
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found = json.loads((tmp_path / "0.json").read_text())["sem_seg"]
    assert found == pytest.approx(by_counting_pixels(*random_maps(4)))
    assert json.loads((tmp_path / "1.json").read_text()) is None


def test_the_table_lists_the_classes_in_their_order(tiny, caplog, tmp_path):
    labels, predicted = [np.array([[0, 0, 1, 1]])], [np.array([[0, 0, 1, 2]])]
    data = tiny(labels, predicted)
    with caplog.at_level("INFO", logger=module.__name__):
        data.evaluate(SemanticEvaluator(data.name, output_dir=str(tmp_path / "out")))
    lines = [line.split("|")[1].strip() for line in caplog.text.splitlines() if "|" in line]
    assert lines[0] == "class" and lines[2:] == ["sky", "sea", "sand", "ship", "mean"]
    written = json.loads((tmp_path / "out" / "sem_seg_evaluation.json").read_text())
    assert written["mIoU"] == pytest.approx(50) and written["IoU-ship"] is None


def test_wrong_labels_are_named(tiny):
    labels, predicted = [np.array([[0, 0, 1, 9]])], [np.zeros((1, 4), np.int64)]
    data = tiny(labels, predicted)
    path = data.records[0]["sem_seg_file_name"]
    with pytest.raises(ValueError, match=rf"{path} has class 9, expected one of 0 to 3, or 255"):
        data.evaluate(SemanticEvaluator(data.name))
    drawing = Image.fromarray(np.zeros((1, 4, 3), np.uint8))
    for mode, message in (("RGB", "must have one channel"), ("P", "is a palette image")):
        drawing.convert(mode).save(path)
        with pytest.raises(ValueError, match=rf"{path} {message}"):
            data.evaluate(SemanticEvaluator(data.name))
    data.evaluate(SemanticEvaluator(data.name, allow_palette=True))
    data.records[0]["sem_seg_file_name"] = "gone.png"
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        data.evaluate(SemanticEvaluator(data.name))
    del data.records[0]["sem_seg_file_name"]
    with pytest.raises(ValueError, match=r"0\.jpg of tiny_.* has no sem_seg_file_name"):
        SemanticEvaluator(data.name)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(3, 1, 4), "has 3 classes, tiny_.* has 4"),
        (torch.zeros(4, 2, 4), r"has size \(2, 4\), its label map \(1, 4\)"),
        (torch.full((1, 4), 4), "the prediction of 0.jpg has class 4"),
    ],
)
def test_predictions_that_do_not_fit_are_named(tiny, prediction, message):
    data = tiny([np.zeros((1, 4))], [])
    with pytest.raises(ValueError, match=message):
        SemanticEvaluator(data.name).process(data.records, [{"sem_seg": prediction}])


def test_an_image_of_another_set_is_named(tiny):
    data = tiny([np.zeros((1, 4))], [])
    with pytest.raises(ValueError, match="other.jpg is no image of tiny_"):
        SemanticEvaluator(data.name).process([{"file_name": "other.jpg"}], [{}])


def test_a_set_without_labels_gives_no_number(tiny, caplog):
    data = tiny([np.full((2, 2), 255)], [np.zeros((2, 2), np.int64)])
    metrics = data.evaluate(SemanticEvaluator(data.name))
    assert all(math.isnan(value) for value in metrics.values())
    assert "has no labelled pixel" in caplog.text
