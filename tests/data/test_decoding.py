import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from PIL import Image

from vitadapter_d2.data import (
    InstanceMapper,
    PanopticMapper,
    SemanticMapper,
    Tolerant,
    build_train_loader,
)
from vitadapter_d2.data.reading import find_problem, image_size


def read_pixels(record: dict) -> int:
    """A mapper that fails as Pillow does, without the file's name."""
    with Image.open(record["file_name"]) as image:
        return int(np.asarray(image.convert("RGB"))[0, 0, 0])


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    """Six JPEG files of 20 x 30 pixels; number 1 is cut short, number 4 is missing."""
    listed = []
    for number in range(6):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(path)
        listed.append({"file_name": str(path), "height": 20, "width": 30, "image_id": number})
    damage(tmp_path / "1.jpg")
    (tmp_path / "4.jpg").unlink()
    return listed


def damage(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def label(tmp_path: Path, name: str, shape: tuple[int, int]) -> str:
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name)
    return str(tmp_path / name)


def test_problems_of_images_are_told_apart(records):
    assert find_problem(records[0]) is None
    assert find_problem(records[1]).kind == "damaged image"
    assert "truncated" in str(find_problem(records[1])).lower()
    assert str(find_problem(records[4])) == f"missing image {records[4]['file_name']}"
    wrong = {**records[0], "height": 30, "width": 20}
    assert str(find_problem(wrong)).endswith("30 x 20 pixels, its annotations say 20 x 30")


@pytest.mark.parametrize("key", ["sem_seg_file_name", "pan_seg_file_name"])
def test_problems_of_label_maps_are_told_apart(records, tmp_path, key):
    record = {**records[0], key: label(tmp_path, "good.png", (20, 30))}
    assert find_problem(record) is None
    record[key] = label(tmp_path, "small.png", (10, 30))
    assert "30 x 10 pixels, its image has 30 x 20" in str(find_problem(record))
    record[key] = str(tmp_path / "none.png")
    assert find_problem(record).kind == "missing label map"
    record[key] = label(tmp_path, "cut.png", (20, 30))
    damage(tmp_path / "cut.png")
    assert find_problem(record).kind == "unreadable label map"


def test_raising_names_the_file(records):
    mapper = Tolerant(read_pixels)
    assert mapper(records[0]) == 0
    with pytest.raises(ValueError, match=r"^damaged image .*1\.jpg: .*[Tt]runcated"):
        mapper(records[1])
    with pytest.raises(ValueError, match=r"^missing image .*4\.jpg"):
        mapper(records[4])
    detectron2s = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    with pytest.raises(ValueError, match=r"^wrong size of image .*0\.jpg"):
        Tolerant(detectron2s)({**records[0], "height": 21})


def test_skipping_counts_and_logs_each_file_once(records, caplog):
    mapper = Tolerant(read_pixels, "skip")
    with caplog.at_level(logging.ERROR):
        assert [mapper(records[i]) is None for i in (0, 1, 1, 4, 5)] == [0, 1, 1, 1, 0]
    assert mapper.skipped == 3
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages] == [
        "skipped a sample, 1 so far",
        "skipped a sample, 3 so far",
    ]
    assert "1.jpg" in messages[0] and "4.jpg" in messages[1]


def test_what_is_no_reading_error_is_never_skipped(records):
    def fails(record: dict) -> None:
        raise KeyError("category")

    with pytest.raises(KeyError, match="category"):
        Tolerant(fails, "skip")(records[0])
    with pytest.raises(KeyError, match="category"):
        Tolerant(fails, "skip")({})


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_file_that_the_mapper_does_not_read_is_not_the_reason(records, tmp_path, policy):
    """Training on panoptic images needs no semantic maps, and so on; here no class fits."""
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(tmp_path / "semantic.png")
    Image.fromarray(np.full((20, 30, 3), (9, 0, 0), np.uint8)).save(tmp_path / "panoptic.png")
    polygon = [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]
    record = {
        **records[0],
        "sem_seg_file_name": str(tmp_path / "semantic.png"),
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "segments_info": [{"id": 9, "category_id": 9}],
        "annotations": [{"category_id": 9, "segmentation": polygon}],
    }
    keys = {"sem_seg_file_name", "pan_seg_file_name"}
    for mapper_class, read in (
        (SemanticMapper, {"sem_seg_file_name"}),
        (PanopticMapper, {"pan_seg_file_name"}),
        (InstanceMapper, set()),
    ):
        mapper = Tolerant(mapper_class([], num_classes=2), policy)
        with pytest.raises(ValueError, match="class 9, expected one of 0 to 1"):
            mapper(record | dict.fromkeys(keys - read, "none.png"))
        for key in read:
            broken = record | {key: "none.png"}
            if policy == "skip":
                assert mapper(broken) is None
            else:
                with pytest.raises(ValueError, match=r"^missing label map none\.png"):
                    mapper(broken)


def test_an_unknown_policy_is_refused(records):
    with pytest.raises(ValueError, match="policy must be one of raise, skip, got 'ignore'"):
        Tolerant(read_pixels, "ignore")
    with pytest.raises(ValueError, match="policy must be one of"):
        build_train_loader(records, mapper=read_pixels, total_batch_size=2, on_error="ignore")


def first_batches(records, workers: int, number: int = 12) -> list[list[int]]:
    loader = build_train_loader(
        records,
        mapper=read_pixels,
        total_batch_size=2,
        num_workers=workers,
        seed=3,
        on_error="skip",
    )
    return [batch for batch, _ in zip(loader, range(number), strict=False)]


def test_the_train_loader_takes_other_samples_and_always_the_same(records):
    batches = first_batches(records, workers=0)
    assert batches == first_batches(records, workers=0) == first_batches(records, workers=2)
    seen = Counter(value // 40 for batch in batches for value in batch)
    assert set(seen) == {0, 2, 3, 5} and sum(seen.values()) == 24
    loader = build_train_loader(records, mapper=read_pixels, total_batch_size=2, seed=3)
    with pytest.raises(ValueError, match=r"(damaged|missing) image .*\.jpg"):
        for _ in zip(loader, range(12), strict=False):
            pass


def test_workers_add_to_one_count(records):
    mapper = Tolerant(read_pixels, "skip")
    loader = build_train_loader(records, mapper=mapper, total_batch_size=2, num_workers=2, seed=3)
    for _ in zip(loader, range(12), strict=False):
        pass
    assert mapper.skipped > 0


def test_sizes_come_from_headers_and_follow_the_camera(tmp_path):
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    image.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "plain.jpg") == (30, 20)
    assert image_size(tmp_path / "turned.jpg") == (20, 30)
    assert (
        find_problem({"file_name": str(tmp_path / "turned.jpg"), "height": 30, "width": 20}) is None
    )
