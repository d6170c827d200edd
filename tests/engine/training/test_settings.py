"""Settings of an optimizer whose state is loaded."""

import copy

import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

from vitadapter_d2.engine.training.settings import keep_settings, optimizer_settings


def build(lr=1.0, weight_decay=0.1):
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": lr / 2}]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


def trained():
    """State after 2 of 4 iterations with a falling learning rate."""
    optimizer = build()
    schedule = LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    return copy.deepcopy(optimizer.state_dict())


def resumed(**settings):
    optimizer = build(**settings)
    configured = optimizer_settings(optimizer)
    optimizer.load_state_dict(trained())
    keep_settings(optimizer, configured)
    LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4, last_iter=1)
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_a_run_that_goes_on_as_it_was_is_told_nothing(caplog):
    assert resumed() == [(0.5, 0.1), (0.25, 0.1)]
    assert not caplog.records


def test_what_the_config_says_now_counts_and_is_told(caplog):
    assert resumed(lr=0.2, weight_decay=0.0) == [(0.1, 0.0), (0.05, 0.0)]
    (record,) = caplog.records
    assert record.getMessage() == (
        "The optimizer goes on with lr 0.2 (1.0 in the checkpoint), weight_decay 0.0 (0.1 in the "
        "checkpoint), as the config says."
    )
