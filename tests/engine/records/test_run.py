"""A run over its parts."""

from omegaconf import OmegaConf

from vitadapter_d2.engine.records.run import RunRecord


def config(**train):
    return OmegaConf.create({"train": {"max_iter": 10, **train}})


def test_time_adds_up_and_the_first_start_is_kept():
    first = RunRecord(config())
    state = first.state_dict()
    state["seconds"], state["started"] = 100.0, "2020-01-01 00:00:00"
    second = RunRecord(config())
    for _ in range(2):  # a file may be loaded twice
        second.load_state_dict(state)
    assert (second.parts, second.started) == (2, "2020-01-01 00:00:00")
    assert 100.0 < second.seconds < 200.0
    assert second.state_dict()["seconds"] > 100.0


def test_settings_that_change_the_course_of_a_run_are_warned_of(caplog):
    RunRecord(config()).load_state_dict(RunRecord(config()).state_dict())
    assert not caplog.records
    RunRecord(config(max_iter=20)).load_state_dict(RunRecord(config()).state_dict())
    (record,) = caplog.records
    assert record.getMessage() == "train.max_iter is 20 now, until here the run had 10."
