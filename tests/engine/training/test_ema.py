"""The moving average of the weights: rule, memory, swap, checkpoint, a whole training."""

import copy
import logging
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import launch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.engine.config.loading import load_config
from vitadapter_d2.engine.evaluate import do_test
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.training.distributed import leave_process_group
from vitadapter_d2.engine.training.ema import ModelEma, build_ema
from vitadapter_d2.engine.training.trainer import Trainer
from vitadapter_d2.engine.weights import load_trained

PUBLISHED = (
    "coco/htcpp_beitv2_adapter_large_fpn_o365_coco",
    "coco/mask2former_beitv2_adapter_large_16x1_3x_coco_panoptic",
)


def build():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def train(model, ema, iterations, first=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for iteration in range(first, iterations):
        generator = torch.Generator().manual_seed(iteration)
        model(torch.randn(2, 3, 4, 4, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(iteration)


def clones(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_the_average_follows_the_published_rule():
    """``(1 - m) average + m weight`` with ``m = (1 - m0) exp(-(1 + i) / 2000) + m0``."""
    model = build()
    expected = {name: value.double() for name, value in clones(model.state_dict()).items()}
    ema = ModelEma(model, 1 - 1e-4, warmup_iters=2000)
    for iteration in range(5):
        train(model, ema, iteration + 1, first=iteration)
        momentum = (1 - 1e-4) * math.exp(-(1 + iteration) / 2000) + 1e-4
        for name, value in model.state_dict().items():
            expected[name] = (1 - momentum) * expected[name] + momentum * value.double()
    assert set(ema.state_dict()) == set(expected) - {"1.num_batches_tracked"}
    for name, average in ema.state_dict().items():
        torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_without_warm_up_the_decay_is_constant_and_counts_where_the_interval_says():
    model = nn.Linear(1, 1, bias=False)
    ema = ModelEma(model, 0.75, interval=2)
    start = model.weight.item()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(0)
    assert ema.averages[0].item() == pytest.approx(start)
    ema.update(1)
    assert ema.averages[0].item() == pytest.approx(start + 0.25)


def test_the_decay_grows_to_its_value():
    ema = ModelEma(build(), 0.9999, warmup_iters=2000)
    assert ema.decay_at(0) == pytest.approx(0.9999 * (1 - math.exp(-1 / 2000)))
    assert ema.decay_at(100_000) == pytest.approx(0.9999)


def test_what_is_frozen_has_no_copy_and_an_update_makes_none():
    model = build()
    model[0].requires_grad_(False)
    ema = ModelEma(model, 0.9, buffers=False)
    assert ema.names == ["1.weight", "1.bias", "2.weight", "2.bias"]
    addresses = [average.data_ptr() for average in ema.averages]
    train(model, ema, 2)
    assert [average.data_ptr() for average in ema.averages] == addresses


def test_the_swap_ends_also_after_an_error():
    model = build()
    ema = ModelEma(model, 0.5)
    train(model, ema, 2)
    weights, averages = clones(model.state_dict()), clones(ema.state_dict())
    with pytest.raises(RuntimeError, match="of the evaluation"), ema.applied():
        inside = clones(model.state_dict())
        raise RuntimeError("of the evaluation")
    assert_same({**weights, **averages}, inside)
    assert_same(clones(model.state_dict()), weights)
    assert_same(clones(ema.state_dict()), averages)


def test_the_swap_is_noticed_by_what_is_cached_in_evaluation():
    model = nn.Linear(2, 2)
    ema = ModelEma(model, 0.5)
    version = model.weight._version
    with ema.applied():
        assert model.weight._version > version


def test_a_resumed_average_is_that_of_an_uninterrupted_run(tmp_path):
    whole = build()
    start = copy.deepcopy(whole)
    whole_ema = ModelEma(whole, 0.9, warmup_iters=3)
    train(whole, whole_ema, 6)

    ema = ModelEma(start, 0.9, warmup_iters=3)
    train(start, ema, 3)
    Checkpointer(start, str(tmp_path), ema=ema).save("model")
    resumed = build()
    resumed_ema = ModelEma(resumed, 0.9, warmup_iters=3)
    Checkpointer(resumed, ema=resumed_ema).load(str(tmp_path / "model.pth"))
    resumed_ema.start()
    train(resumed, resumed_ema, 6, first=3)
    assert_same(whole_ema.state_dict(), resumed_ema.state_dict())


def test_a_new_average_starts_at_the_loaded_weights():
    model = build()
    ema = ModelEma(model, 0.9)
    model.load_state_dict(build().state_dict())
    ema.start()
    for name, average in ema.state_dict().items():
        assert torch.equal(average, model.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": 0.9, "warmup_iters": -1}, "warmup_iters must be at least 0, got -1"),
        ({"decay": 0.9, "interval": 0}, "interval must be at least 1, got 0"),
    ],
)
def test_a_number_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ModelEma(build(), **options)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match=r"of float32, 0.weight.* has bfloat16"):
        ModelEma(build().bfloat16(), 0.9)


def test_averages_of_another_model_are_refused():
    model = build()
    state = ModelEma(model, 0.9).state_dict()
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match="differ in 0.bias, 0.weight; train with the parts frozen"):
        ModelEma(model, 0.9).load_state_dict(state)
    wide = build()
    wide[2] = nn.Conv2d(4, 5, 1)
    with pytest.raises(ValueError, match=r"2.weight is \(2, 4, 1, 1\) in the checkpoint, \(5, 4"):
        ModelEma(wide, 0.9).load_state_dict(state)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_averages_are_on(name):
    ema = build_ema(load_config(name), build())
    assert (ema.decay, ema.warmup_iters, ema.interval) == (0.9999, 2000, 1)
    assert "1.running_mean" in ema.names


def test_other_configs_have_none():
    assert build_ema(load_config("shapes/upernet_vit_adapter_shapes"), build()) is None


def average_on_each_process(folder):
    torch.manual_seed(0)
    model = build()
    ema = ModelEma(model, 0.5)
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    rank = torch.distributed.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for iteration in range(3):
        # The same statistics, as a synchronised norm has them; gradients differ by the weight.
        image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(iteration))
        (parallel(image).square().sum() * (rank + 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(iteration)
    torch.save(clones(ema.state_dict()), f"{folder}/{rank}.pt")
    leave_process_group()


def test_two_processes_have_the_same_averages(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch(average_on_each_process, 2, dist_url="auto", args=(str(tmp_path),))
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert_same(one, other)


def test_training_evaluates_and_predicts_with_the_averages(tiny_config, caplog):
    tiny_config.train.ema.update(enabled=True, decay=0.9, warmup_iters=0)
    tiny_config.optimizer.lr = 1e-2
    trained = do_train(tiny_config)
    file = str(Path(tiny_config.train.output_dir, "model_final.pth"))
    saved = torch.load(file, weights_only=True)
    name = "backbone.level_embed"
    assert not torch.equal(saved["ema"][name], saved["model"][name])

    model = instantiate(tiny_config.model)
    with caplog.at_level(logging.INFO):
        load_trained(model, file)
    assert caplog.text.count("The weights are the checkpoint's moving averages") == 1
    assert torch.equal(model.state_dict()[name], saved["ema"][name])
    assert do_test(tiny_config, model)["sem_seg"] == trained["sem_seg"]

    load_trained(model, file, use_averages=False)
    assert torch.equal(model.state_dict()[name], saved["model"][name])
    assert do_test(tiny_config, model)["sem_seg"] != trained["sem_seg"]


def test_an_evaluation_of_a_finished_run_uses_the_averages(tiny_config):
    tiny_config.train.ema.update(enabled=True, decay=0.9, warmup_iters=0)
    tiny_config.optimizer.lr = 1e-2
    trained = do_train(tiny_config)
    assert do_train(tiny_config, resume=True)["sem_seg"] == trained["sem_seg"]


def test_a_resumed_training_ends_with_the_averages_of_an_uninterrupted_one(
    tiny_config, tmp_path, monkeypatch
):
    tiny_config.train.ema.update(enabled=True, decay=0.9, warmup_iters=3)
    tiny_config.train.update(max_iter=4, seed=5, best_metric="auto", eval_period=2)
    tiny_config.train.checkpointer.period = 2
    tiny_config.dataloader.evaluator = tiny_config.dataloader.evaluator[:1]
    step = Trainer.run_step

    def stop(self):
        if self.iter == 2:
            raise RuntimeError("stopped")
        step(self)

    averages = []
    for interrupted in (False, True):
        cfg = copy.deepcopy(tiny_config)
        cfg.train.output_dir = str(tmp_path / str(interrupted))
        if interrupted:
            with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped"):
                patched.setattr(Trainer, "run_step", stop)
                do_train(copy.deepcopy(cfg))
        do_train(cfg, resume=interrupted)
        file = Path(cfg.train.output_dir, "model_final.pth")
        averages.append(torch.load(file, weights_only=True)["ema"])
    assert_same(*averages)
