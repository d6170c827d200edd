"""The training loader: the same samples in the same order, from any iteration on.

Detectron2's loader groups and shuffles what its workers have made, so that the order depends on
their number, and can be resumed only by making everything again. Here indices are shuffled and
grouped before anything is read, and the randomness of a sample follows from its number.
"""

import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, IterableDataset

from vitadapter_d2.data.reading import Policy, Tolerant, image_size
from vitadapter_d2.data.seeding import seeded

Record = dict[str, Any]
Batch = list[Any]

# A worker that dies while it hands over a batch is met as a broken connection; torch's error, which
# says what happened, is raised in this time.
_NOTICE_S = 2
_MAX_REFUSED = 1000  # samples in a row; then something other than a few files is wrong


class WorkerDiedError(RuntimeError):
    """A data loading process was ended from outside."""


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Turns torch's error about a dead worker, raised wherever its signal arrives, into ours."""
    try:
        yield
    except RuntimeError as error:
        if (sentence := worker_death(error)) is None:
            raise
        raise WorkerDiedError(sentence) from error


def worker_death(error: BaseException) -> str | None:
    """The sentence for torch's error about a dead worker; None for every other error."""
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
        return None
    return (
        f"a data loading process died ({' '.join(str(error).split())}); most often the memory or "
        "the shared memory (/dev/shm) is full: lower dataloader.train.num_workers or the batch "
        "size and go on with --resume"
    )


class SharedRecords(Dataset):
    """A list in one block of memory that workers share, whichever way they are started.

    A list of dicts is copied into every forked worker bit by bit, as reference counts are written,
    and at once into a spawned one. An element is built anew each time it is asked for.

    Args:
        records: anything that can be pickled.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, records: Sequence[Any]) -> None:
        if not records:
            raise ValueError("the data set has no records")
        pickled = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        # Tensors: torch hands them to a spawned worker by name, in shared memory.
        self._ends = torch.tensor([len(one) for one in pickled], dtype=torch.int64).cumsum(0)
        self._bytes = torch.frombuffer(bytearray().join(pickled), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        start = int(self._ends[index - 1]) if index else 0
        return pickle.loads(self._bytes[start : int(self._ends[index])].numpy().data)


class TrainLoader:
    """Endless batches of one process; :meth:`iterate` starts at any of them.

    Args:
        samples: gives the sample of ``(n, index)``.
        sampler: indices of this process, as Detectron2's samplers give them: a sampler's iterator
            must be the same each time, and the processes take turns in one stream.
        batch_size: of this process.
        group_of: batches hold indices of one group.
        num_workers: processes that make samples; 0 makes them here.
        collate_fn: makes a batch of a list of samples.
    """

    def __init__(
        self,
        samples: Dataset,
        sampler: Iterable[int],
        batch_size: int,
        group_of: Callable[[int], Any],
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] = list,
    ) -> None:
        self.samples = samples
        self.sampler = sampler
        self.batch_size = batch_size
        self.group_of = group_of
        self.num_workers = num_workers
        self.collate_fn = collate_fn

    @property
    def skipped(self) -> int:
        """Samples that could not be read so far, of all workers; 0 if the samples do not tell."""
        return getattr(self.samples, "skipped", 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate()

    def iterate(self, first: int = 0) -> Iterator[Batch]:
        """Batches from number ``first`` on; those before are not read.

        Raises:
            WorkerDiedError: a worker was killed, by the system for want of memory as a rule.
        """
        loader = DataLoader(
            self.samples,
            batch_sampler=islice(self.numbered_indices(), first, None),  # type: ignore[arg-type]
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            generator=torch.Generator(),  # it draws one number; not from the caller's
        )
        with worker_deaths_told():
            try:
                yield from loader
            except (OSError, EOFError):
                if self.num_workers:
                    time.sleep(_NOTICE_S)
                raise

    def numbered_indices(self) -> Iterator[list[tuple[int, int]]]:
        """The batches as lists of ``(n, index)``, n being the place among all processes."""
        numbers = count(comm.get_rank(), comm.get_world_size())
        groups: dict[Any, list[tuple[int, int]]] = {}
        for n, index in zip(numbers, self.sampler, strict=False):
            group = groups.setdefault(self.group_of(index), [])
            group.append((n, int(index)))
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()


def build_train_loader(
    dataset: list[Record] | Dataset,
    *,
    mapper: Callable[[Record], Any],
    total_batch_size: int,
    sampler: Iterable[int] | None = None,
    repeat_thresh: float | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    seed: int | None = None,
    on_error: Policy = "raise",
) -> TrainLoader:
    """Takes the place of Detectron2's ``build_detection_train_loader``, to resume exactly.

    Sample n of the stream is the same whatever the number of workers: ``random``, ``numpy.random``
    and torch are seeded from ``(seed, n)`` before the mapper runs. If the mapper returns None,
    another record takes the place, chosen in the same way.

    Args:
        dataset: list of records, which the workers share, or a map-style dataset of them.
        mapper: record -> sample.
        total_batch_size: of all processes together.
        sampler: None shuffles without end. Any other must have a seed of its own, or be made where
            ``numpy.random`` is seeded, as ``do_train`` makes it.
        repeat_thresh: an image is drawn more often if a class of it is in a smaller share of the
            images than this (arXiv 1908.03195, Appendix B.2); None draws all alike.
        aspect_ratio_grouping: images of a batch are all wider than high, or none is. A record
            without ``width`` and ``height`` has its image's header read.
        num_workers: processes of each process; each makes whole batches, two ahead.
        collate_fn: makes a batch of a list of samples; None keeps the list.
        on_error: what happens at a file that cannot be read, see ``Tolerant``.
        seed: 0 or more, the same in all processes; None draws one. ``do_train`` sets it.

    Raises:
        ValueError: the batch cannot be divided among the processes; the data set has no indices;
            there are both ``sampler`` and ``repeat_thresh``.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"total_batch_size must be a multiple of the number of processes, {world_size}, "
            f"got {total_batch_size}"
        )
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "a stream cannot be resumed in its middle: give a list or a map-style dataset, or take "
            "detectron2.data.build_detection_train_loader"
        )
    if sampler is not None and repeat_thresh is not None:
        raise ValueError(f"repeat_thresh={repeat_thresh} is for the loader's own sampler: give one")
    seed = comm.shared_random_seed() if seed is None else seed
    records = SharedRecords(dataset) if isinstance(dataset, list) else dataset
    return TrainLoader(
        _Samples(records, Tolerant(mapper, on_error), seed),
        _endless(dataset, repeat_thresh, seed) if sampler is None else sampler,
        total_batch_size // world_size,
        _orientations(dataset, records) if aspect_ratio_grouping else lambda index: None,
        num_workers,
        list if collate_fn is None else collate_fn,
    )


def _endless(
    dataset: list[Record] | Dataset, repeat_thresh: float | None, seed: int
) -> Iterable[int]:
    """Detectron2's samplers of all images alike, or of those with rare classes more often."""
    if repeat_thresh is None:
        return TrainingSampler(len(dataset), seed=seed)  # type: ignore[arg-type]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dataset, repeat_thresh
    )
    return RepeatFactorTrainingSampler(factors, seed=seed)


class _Samples(Dataset):
    """The sample of ``(n, index)``: a function of these and the seed."""

    def __init__(self, records: Dataset, mapper: Callable[[Record], Any], seed: int) -> None:
        self._records = records
        self._mapper = PicklableWrapper(mapper)  # a lambda too, for workers that are spawned
        self._seed = seed

    @property
    def skipped(self) -> int:
        """See :class:`Tolerant`."""
        return getattr(self._mapper, "skipped", 0)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        n, index = place
        for attempt in range(_MAX_REFUSED):
            with seeded(self._seed, n, attempt):
                sample = self._mapper(self._records[index])
                if sample is not None:
                    return sample
                index = random.randrange(len(self._records))  # type: ignore[arg-type]
        raise ValueError(
            f"the mapper gave nothing for {_MAX_REFUSED} records in a row; the next would be that "
            f"of {self._records[index].get('file_name')}"
        )


def _orientations(dataset: list[Record] | Dataset, records: Dataset) -> Callable[[int], bool]:
    """Detectron2's two groups of images, by index: wider than high, or not."""
    has_sizes = {"width", "height"}.issubset
    listed = dataset if isinstance(dataset, list) else []
    known = {
        index: record["width"] > record["height"]
        for index, record in enumerate(listed)
        if has_sizes(record)
    }

    def is_wide(index: int) -> bool:
        if index not in known:
            record = records[index]
            width, height = (
                (record["width"], record["height"])
                if has_sizes(record)
                else _size_in_file(record["file_name"])
            )
            known[index] = width > height
        return known[index]

    return is_wide


def _size_in_file(path: str) -> tuple[int, int]:
    """Width and height of an image as Detectron2 will turn it; (0, 0) if it cannot be read."""
    try:
        return image_size(path)
    except (OSError, ValueError):  # for the mapper to tell, or to skip
        return 0, 0
