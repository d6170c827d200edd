import json
import math
from itertools import islice

import pytest
import torch
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage, get_event_storage
from resumed_runs import context
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.data import build_train_loader
from vitadapter_d2.engine.training.trainer import Trainer


class Regression(nn.Module):
    """Losses are means over the batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, batch):
        output = self.linear(torch.stack([sample["image"] for sample in batch]))
        return {"loss_square": output.square().mean(), "loss_abs": output.abs().mean()}


def samples(count=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, generator=generator)
    return [{"image": image, "file_name": f"{n}.png"} for n, image in enumerate(images)]


def build(batches, model=None, lr=0.1, **options):
    torch.manual_seed(0)
    model = Regression() if model is None else model
    return Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=lr), **options)


def steps(trainer, count=1):
    with EventStorage() as storage:
        for iteration in range(count):
            trainer.iter = storage.iter = iteration
            trainer.run_step()
    return {name: value for name, (value, _) in storage.latest().items() if name != "data_time"}


def chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def test_micro_batches_step_as_the_batch_does():
    whole = build(chunks(samples(), 4), clip_grad_norm=0.5)
    parts = build(chunks(samples(), 2), clip_grad_norm=0.5, accumulate=2)
    assert steps(parts, 2) == pytest.approx(steps(whole, 2), rel=1e-5)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def step_together(rank, folder):
    """Each process has half of each micro-batch."""
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(Regression())
    exchanges = []

    def exchange(_, bucket):
        exchanges.append(bucket.index())
        future = distributed.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    model.register_comm_hook(None, exchange)
    halves = [batch[rank::2] for batch in chunks(samples(), 2)]
    losses = steps(build(halves, model, accumulate=2), 2)
    torch.save((model.module.state_dict(), exchanges, losses), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_exchange_the_gradient_of_the_last_micro_batch_alone(tmp_path):
    processes = [context.Process(target=step_together, args=(r, str(tmp_path))) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    whole = build(chunks(samples(), 4))
    expected = steps(whole, 2)
    for rank in range(2):
        state, exchanges, losses = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert exchanges == [0, 0]  # one bucket, two iterations
        assert rank or losses == pytest.approx(expected, rel=1e-5)
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(state[name], value)


@pytest.mark.parametrize("norm", [0, -1, math.nan])
def test_a_norm_that_stops_or_turns_the_training_is_refused(norm):
    with pytest.raises(ValueError, match="clip_grad_norm must be above 0, or None, got"):
        build([], clip_grad_norm=norm)


def test_data_that_end_are_told():
    with pytest.raises(ValueError, match="the training data ended at iteration 1 of"):
        trainer = build(chunks(samples(2), 2))
        trainer.max_iter = 3
        steps(trainer, 2)


class Drawing(Regression):
    def forward(self, batch):
        self.drawn = torch.rand(3)
        return super().forward(batch)


def test_the_randomness_of_an_iteration_is_that_of_its_number():
    def draw(iterations, **options):
        trainer = build(chunks(samples(), 2), Drawing(), **options)
        drawn = []
        with EventStorage():
            for trainer.iter in iterations:
                trainer.run_step()
                drawn.append(tuple(trainer.model.drawn.tolist()))
                torch.rand(7)
        return drawn

    drawn = draw(range(3))
    assert len(set(drawn)) == 3
    assert draw([2]) == drawn[2:]
    assert draw([2], seed=1) != drawn[2:]


def test_batches_of_a_resumed_run_are_those_of_its_iterations():
    loader = build_train_loader(
        samples(), mapper=dict, total_batch_size=2, aspect_ratio_grouping=False, seed=3
    )
    expected = [sample["file_name"] for batch in islice(loader, 4, 6) for sample in batch]
    seen = []

    class Watching(Regression):
        def forward(self, batch):
            seen.extend(sample["file_name"] for sample in batch)
            return super().forward(batch)

    trainer = build(loader, Watching(), accumulate=2)
    trainer.iter = 2
    with EventStorage():
        trainer.run_step()
    assert seen == expected


def test_a_loader_that_starts_again_is_warned_of(caplog):
    trainer = build(chunks(samples(), 2))
    trainer.iter = 1
    with EventStorage(), caplog.at_level("WARNING"):
        trainer.run_step()
    assert "a resumed run sees other data" in caplog.text


def test_a_loss_that_is_no_number_names_what_is_needed_to_repeat_it(tmp_path):
    batches = chunks(samples(), 2)
    batches[1][1]["image"] = torch.full((3,), math.inf)
    trainer = build(batches, accumulate=2, seed=5, output_dir=str(tmp_path))
    before = trainer.model.linear.weight.clone()
    message = r"at iteration 0 loss_square is nan .*loss_abs is nan .*images: 2.png, 3.png \(all in"
    with pytest.raises(FloatingPointError, match=message):
        steps(trainer)
    assert torch.equal(trainer.model.linear.weight, before)
    found = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert (found["iteration"], found["seed"]) == (0, 5)
    assert found["images"] == [{"file_name": "2.png"}, {"file_name": "3.png"}]


class Root(Regression):
    """At 0 its gradient is infinite."""

    def forward(self, batch):
        return {"loss": self.linear.weight.sum() * 0 + self.linear.bias.mul(0).abs().sqrt().sum()}


def test_a_gradient_that_is_no_number_names_the_first_parameter():
    message = r"at iteration 0 the gradient has norm nan \(first in linear.bias\); images: 0.png"
    with pytest.raises(FloatingPointError, match=message):
        steps(build(chunks(samples(), 2), Root()))


class Steep(Regression):
    """Its scaled gradient is beyond float16."""

    def forward(self, batch):
        output = self.linear(torch.stack([sample["image"] for sample in batch]))
        return {"loss": 10 * output.float().sum()}


def test_an_overflow_of_float16_finds_another_loss_scale():
    trainer = build(chunks(samples() * 4, 2), Steep(), lr=1e-3, amp_dtype="float16")
    before = trainer.model.linear.weight.clone()
    assert "grad_norm" not in steps(trainer)
    assert trainer.grad_scaler.get_scale() == 2.0**15
    assert torch.equal(trainer.model.linear.weight, before)
    scalars = steps(trainer, 8)
    assert 0 < scalars["grad_norm"] < math.inf
    assert not torch.equal(trainer.model.linear.weight, before)


def test_a_gradient_that_no_loss_scale_mends_is_told():
    trainer = build(chunks(samples() * 20, 2), Root(), amp_dtype="float16")
    with pytest.raises(FloatingPointError, match="at iteration 26 the gradient has norm nan"):
        steps(trainer, 40)


def test_errors_of_use_are_named():
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        build([], accumulate=0)


class Recorder(hooks.PeriodicWriter):
    """What Detectron2's writers would write."""

    def __init__(self, written):
        super().__init__([], period=1)
        self.written = written

    def after_step(self):
        found = get_event_storage().latest_with_smoothing_hint(20)
        self.written.append({name: value for name, value in found.items() if name != "data_time"})


@pytest.mark.parametrize("redoes_last", [False, True])
def test_records_of_a_resumed_run_continue(redoes_last):
    def run(start, stop, state=None):
        written = []
        batches = chunks(samples(), 1)[start:]
        trainer = build(batches)
        saving = hooks.PeriodicCheckpointer(Checkpointer(trainer.model), period=100)
        trainer.register_hooks([saving, Recorder(written)])
        if state:
            model, own = state
            trainer.model.load_state_dict(model)
            trainer.load_state_dict(own)
            trainer.redoes_last = redoes_last
        trainer.train(start, stop)
        trainer.iter -= 1  # as it is when a checkpoint is saved
        return written, (trainer.model.state_dict(), trainer.state_dict())

    whole, _ = run(0, 8)
    _, state = run(0, 5)
    second, _ = run(5, 8, state)
    assert second == whole[4 if redoes_last else 5 :]
