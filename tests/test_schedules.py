import runpy

import pytest

from vitadapter_d2.engine.config.loading import configs_root

SCHEDULES = runpy.run_path(str(configs_root() / "common" / "schedules.py"))


def test_a_warm_up_that_does_not_end_is_refused():
    assert SCHEDULES["cosine"](101, warmup_iters=100).warmup_length == 100 / 101
    for warmup_iters in (100, -1):
        with pytest.raises(ValueError, match=r"must be in \[0, max_iter=100\), got "):
            SCHEDULES["cosine"](100, warmup_iters=warmup_iters)
