"""``dataloader.test.dataset.names`` is the one place that says what is evaluated."""

import pytest

from vitadapter_d2 import model_zoo
from vitadapter_d2.engine.config.loading import load_config


@pytest.mark.parametrize("name", model_zoo.names())
def test_evaluators_follow_the_data_set(name):
    cfg = load_config(name, ["dataloader.test.dataset.names=another"])
    assert {evaluator.dataset_name for evaluator in cfg.dataloader.evaluator} == {"another"}
