import gc
import multiprocessing
import os
import random
import signal
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from detectron2.data.build import AspectRatioGroupedDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from PIL import Image
from torch.utils.data import ChainDataset, Dataset

from vitadapter_d2.data import build_train_loader
from vitadapter_d2.data.loading import SharedRecords, WorkerDiedError
from vitadapter_d2.data.seeding import seed_everything, seeded


def records(count=10):
    """Every third is wider than high."""
    return [
        {"image_id": i, "file_name": f"{i}.jpg", "height": 4, "width": 8 if i % 3 == 0 else 3}
        for i in range(count)
    ]


def draw(record):
    """What a mapper does to the generators, each to an extent of its own."""
    for _ in range(record["image_id"]):
        random.random()
    return {**record, "drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def loader(mapper=draw, **options):
    options = {"dataset": records(), "total_batch_size": 2, "seed": 5, **options}
    return build_train_loader(mapper=mapper, **options)


def take(batches, count=12):
    return list(islice(batches, count))


def ids(batches):
    return [[sample["image_id"] for sample in batch] for batch in batches]


@pytest.mark.parametrize("grouping", [False, True])
def test_batches_depend_on_the_seed_alone(grouping):
    alone = take(loader(aspect_ratio_grouping=grouping))
    assert take(loader(aspect_ratio_grouping=grouping, num_workers=2)) == alone
    assert take(loader(aspect_ratio_grouping=grouping, seed=6)) != alone
    drawn = [sample["drawn"] for batch in alone for sample in batch]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_the_middle_are_those_of_the_whole(num_workers):
    read = []

    def mapper(record):
        read.append(record["image_id"])
        return draw(record)

    whole = take(loader())
    rest = take(loader(mapper, num_workers=num_workers).iterate(7), 5)
    assert rest == whole[7:]
    assert num_workers or len(read) == 10  # what was skipped was not read


def test_groups_are_those_of_detectron2():
    indices = islice(TrainingSampler(10, seed=5), 60)
    grouped = AspectRatioGroupedDataset((records()[i] for i in indices), 4)
    expected = ids(grouped)
    assert ids(take(loader(total_batch_size=4), len(expected))) == expected
    assert len(expected) > 10


def test_two_processes_share_the_stream_of_one(monkeypatch):
    alone = take(loader(aspect_ratio_grouping=False, total_batch_size=4))
    shares = []
    for rank in range(2):
        for where in ("vitadapter_d2.data.loading", "detectron2.data.samplers.distributed_sampler"):
            monkeypatch.setattr(f"{where}.comm.get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(f"{where}.comm.get_world_size", lambda: 2)
        shares.append(take(loader(aspect_ratio_grouping=False, total_batch_size=4)))
    for whole, first, second in zip(alone, *shares, strict=True):
        assert whole[::2] == first and whole[1::2] == second


def test_generators_of_the_caller_go_on_as_if_nothing_had_been_loaded():
    seed_everything(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    seed_everything(3)
    next(iter(loader()))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_seeds_of_every_length_and_use_differ():
    drawn = []
    for key in [(1,), (1, 0), (0, 1), (1, 2**40)]:
        with seeded(*key):
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        seed_everything(*key)
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(drawn)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_refused_sample_is_replaced_by_the_same_other_one(num_workers):
    def mapper(record):
        return None if record["image_id"] % 2 else draw(record)

    batches = take(loader(mapper, num_workers=num_workers))
    assert not any(image_id % 2 for batch in ids(batches) for image_id in batch)
    assert take(loader(mapper).iterate(4), 8) == batches[4:]


def test_a_mapper_that_refuses_everything_is_told():
    with pytest.raises(ValueError, match=r"gave nothing for 1000 records in a row.*\.jpg"):
        next(iter(loader(lambda record: None)))


def test_samplers_of_detectron2_are_followed():
    def sampler():
        return RepeatFactorTrainingSampler(torch.tensor([3.0] + [1.0] * 9), seed=1)

    batches = take(loader(sampler=sampler(), aspect_ratio_grouping=False))
    seen = [image_id for batch in ids(batches) for image_id in batch]
    assert seen == list(islice(sampler(), 24))
    assert seen.count(0) > 4
    resumed = loader(sampler=sampler(), aspect_ratio_grouping=False).iterate(5)
    assert take(resumed, 7) == batches[5:]


def test_images_of_rare_classes_are_drawn_more_often():
    listed = [{**r, "annotations": [{"category_id": r["image_id"] == 7}]} for r in records()]
    options = {"dataset": listed, "aspect_ratio_grouping": False, "repeat_thresh": 0.4}
    batches = take(loader(**options), 600)
    seen = np.bincount([image_id for batch in ids(batches) for image_id in batch])
    # The rare class is in a tenth of the images: sqrt(0.4 / 0.1) times as often.
    np.testing.assert_allclose(seen / seen.sum(), [1 / 11] * 7 + [2 / 11] + [1 / 11] * 2, atol=0.01)
    assert take(loader(**options).iterate(590), 10) == batches[590:]
    with pytest.raises(ValueError, match=r"repeat_thresh=0\.4 is for the loader's own sampler"):
        loader(**options, sampler=TrainingSampler(10))


def test_a_map_style_dataset_needs_no_list():
    class Items(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return records()[index]

    assert take(loader(dataset=Items())) == take(loader())


def test_sizes_that_no_record_has_are_read_from_the_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "wide.jpg")
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    names = ["wide", "turned", "missing"]
    dataset = [{"image_id": name, "file_name": str(tmp_path / f"{name}.jpg")} for name in names]
    batches = ids(take(loader(lambda record: record, dataset=dataset)))
    assert {name for batch in batches if "wide" in batch for name in batch} == {"wide"}
    assert any({"turned", "missing"} == set(batch) for batch in batches)


def test_errors_of_use_are_named():
    with pytest.raises(ValueError, match="multiple of the number of processes, 1, got 0"):
        loader(total_batch_size=0)
    with pytest.raises(ValueError, match="a stream cannot be resumed"):
        loader(dataset=ChainDataset([]))
    with pytest.raises(ValueError, match="has no records"):
        loader(dataset=[])


def test_a_killed_worker_is_told():
    def mapper(record):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    with pytest.raises(WorkerDiedError, match=r"died \(DataLoader worker.*--resume"):
        next(iter(loader(mapper, num_workers=1)))


class Fatal:
    """Its worker dies while the trainer unpacks it."""

    def __reduce__(self):
        return kill_and_break, (os.getpid(),)


def kill_and_break(pid):
    os.kill(pid, signal.SIGKILL)
    raise ConnectionResetError


def test_a_worker_killed_while_it_hands_over_a_batch_is_told():
    with pytest.raises(WorkerDiedError, match=r"died \(DataLoader worker.*killed by signal"):
        next(iter(loader(lambda record: Fatal(), num_workers=1)))


def test_shared_records_are_those_of_the_list():
    listed = [{"n": n, "text": "x" * n} for n in range(50)]
    shared = SharedRecords(listed)
    assert [shared[n] for n in range(len(shared))] == listed
    shared[7]["n"] = 0  # of this one
    assert shared[7]["n"] == 7


def test_a_list_goes_to_a_spawned_worker_by_name():
    shared = SharedRecords([{"n": n, "text": "x" * 100} for n in range(20_000)])
    assert len(ForkingPickler.dumps(shared)) < 4096 < len(shared._bytes)
    assert shared._bytes.is_shared()


def look(shared, connection):
    """In a worker: how many records it has, and what it reads."""
    alive = sum(isinstance(one, dict) and "marked" in one for one in gc.get_objects())
    connection.send((alive, shared[len(shared) - 1]["n"]))


def test_a_forked_worker_has_no_record_but_those_it_reads():
    shared = SharedRecords([{"marked": True, "n": n} for n in range(20_000)])
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=look, args=(shared, there))
    worker.start()
    assert here.recv() == (0, 19_999)
    worker.join()
