"""Which errors become a sentence, wherever they come from."""

import logging

import pytest
from torch.utils.data import DataLoader

from vitadapter_d2.data.loading import SharedRecords
from vitadapter_d2.data.reading import Tolerant
from vitadapter_d2.engine.errors import sentences_logged, told


class Mapped:
    """A data set whose mapper raises."""

    def __init__(self, mapper):
        self.mapper = mapper

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.mapper({"file_name": "nowhere/a.jpg"})


def refuse(_):
    SharedRecords([])


def divide(_):
    return 1 // 0


def read(_):
    return int("seven")


def error_of(mapper, workers):
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        list(DataLoader(Mapped(mapper), num_workers=workers))
    return caught.value


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_is_told_wherever_it_was_raised(workers):
    missing = error_of(Tolerant(divide), workers)
    assert told(missing) == "missing image nowhere/a.jpg"
    assert told(error_of(refuse, workers)) == "the data set has no records"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mapper", [divide, read])
def test_a_programming_error_is_not_told(mapper, workers):
    assert told(error_of(mapper, workers)) is None


def test_the_training_loop_logs_sentences_and_keeps_other_tracebacks(caplog):
    logger = logging.getLogger("detectron2.engine.train_loop")

    def log(error):
        try:
            raise error
        except Exception:
            logger.exception("Exception during training:")

    with sentences_logged(lambda error: "what is wrong" if isinstance(error, OSError) else None):
        log(OSError(28, "100 % full"))
        log(KeyError("a key"))
    log(OSError("later"))
    assert caplog.messages[0] == "Exception during training: what is wrong"
    assert [record.exc_info is None for record in caplog.records] == [True, False, False]
