import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage

from vitadapter_d2.checkpoint.checkpointer import Checkpointer
from vitadapter_d2.data.datasets.registration import SemanticPaths, load_semantic_records
from vitadapter_d2.engine.evaluate import do_test, summary_line
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.engine.training.trainer import Trainer


def trained_iterations(cfg):
    lines = Path(cfg.train.output_dir, "metrics.json").read_text().splitlines()
    return [line["iteration"] for line in map(json.loads, lines) if "total_loss" in line]


def test_training_leaves_metrics_weights_and_pictures(tiny_config):
    results = do_train(tiny_config)
    output = Path(tiny_config.train.output_dir)
    assert {"panoptic_seg", "bbox", "segm", "sem_seg"} <= set(results)
    assert trained_iterations(tiny_config) == [0, 1]
    assert (output / "model_final.pth").is_file()
    assert (output / "pictures" / "gallery.png").is_file()
    assert len(list((output / "pictures").glob("0*.png"))) == 8
    assert list(output.glob("events.out.tfevents*"))


def test_evaluation_of_the_saved_model_repeats_the_result(tiny_config):
    trained = do_train(tiny_config)
    model = instantiate(tiny_config.model)
    Checkpointer(model).load(str(Path(tiny_config.train.output_dir, "model_final.pth")))
    assert summary_line(do_test(tiny_config, model)) == summary_line(trained)


def test_resume_continues_after_the_last_checkpoint(tiny_config):
    tiny_config.dataloader.evaluator = tiny_config.dataloader.evaluator[:1]
    do_train(tiny_config)
    weights = torch.load(Path(tiny_config.train.output_dir, "model_final.pth"), weights_only=True)
    assert weights["trainer"]["optimizer"]["state"]
    tiny_config.train.max_iter = 3
    do_train(tiny_config, resume=True)
    assert trained_iterations(tiny_config) == [0, 1, 2]


def test_a_wrong_test_is_told_before_the_first_iteration(tiny_config):
    cfg = LazyConfig.apply_overrides(tiny_config, ["test.mode=slide"])
    with pytest.raises(ValueError, match="test must be a call"):
        do_train(cfg)
    assert not Path(cfg.train.output_dir).exists()


def test_a_missing_test_set_is_told_before_the_first_iteration(tiny_config, tmp_path):
    paths = SemanticPaths(str(tmp_path), str(tmp_path))
    DatasetCatalog.register("not_there", partial(load_semantic_records, paths))
    tiny_config.dataloader.test.dataset.names = "not_there"
    try:
        with pytest.raises(FileNotFoundError, match=r"no \*\.png in"):
            do_train(tiny_config)
    finally:
        DatasetCatalog.remove("not_there")
    assert not Path(tiny_config.train.output_dir).exists()


def build_trainer(cfg, data=None, **options):
    model = instantiate(cfg.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loader = instantiate(cfg.dataloader.train) if data is None else data
    return Trainer(model, loader, optimizer, **options)


def step(trainer):
    with EventStorage() as storage:
        trainer.run_step()
    return storage.latest()["total_loss"][0]


def records_with(path):
    records = DatasetCatalog.get("tiny_val_panoptic")
    records[3]["file_name"] = path
    return records


@pytest.fixture
def one_image(tiny_config, tmp_path):
    """A copy of an evaluated image that a test may spoil."""
    path = tmp_path / "copy.png"
    path.write_bytes(Path(DatasetCatalog.get("tiny_val_panoptic")[3]["file_name"]).read_bytes())
    tiny_config.dataloader.test.dataset = LazyCall(records_with)(path=str(path))
    return path


def test_a_missing_image_is_told_before_the_first_iteration(tiny_config, one_image):
    one_image.unlink()
    with pytest.raises(FileNotFoundError, match=f"{one_image} does not exist"):
        do_train(tiny_config)
    assert not Path(tiny_config.train.output_dir, "metrics.json").exists()


def test_a_damaged_image_that_is_evaluated_is_named(tiny_config, one_image):
    one_image.write_bytes(one_image.read_bytes()[:300])
    model = instantiate(tiny_config.model)
    with pytest.raises(ValueError, match=f"damaged image {one_image}"):
        do_test(tiny_config, model)


def test_bfloat16_loss_is_close_to_float32(tiny_config):
    batch = next(iter(instantiate(tiny_config.dataloader.train)))
    losses = []
    for dtype in (None, "bfloat16"):
        torch.manual_seed(0)
        trainer = build_trainer(tiny_config, data=[batch], amp_dtype=dtype)
        torch.manual_seed(1)  # of the points that the losses are sampled at
        losses.append(step(trainer))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_run_may_change_its_precision(tiny_config):
    state = build_trainer(tiny_config, data=[]).state_dict()
    build_trainer(tiny_config, data=[], amp_dtype="float16").load_state_dict(state)
    del state["grad_scaler"]  # of detectron2's own trainer
    build_trainer(tiny_config, data=[]).load_state_dict(state)


def test_clipping_bounds_the_norm_of_the_whole_gradient(tiny_config):
    trainer = build_trainer(tiny_config, clip_grad_norm=0.01)
    step(trainer)
    gradients = [p.grad for p in trainer.model.parameters()]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_every_parameter_of_the_model_is_trained(tiny_config):
    trainer = build_trainer(tiny_config)
    step(trainer)
    assert not [name for name, p in trainer.model.named_parameters() if p.grad is None]


def test_unknown_amp_dtype_is_named(tiny_config):
    with pytest.raises(ValueError, match=r"one of \['bfloat16', 'float16'\], got 'half'"):
        build_trainer(tiny_config, amp_dtype="half")


def test_summary_line_shows_what_was_measured():
    results = {"sem_seg": {"mIoU": 75.06}, "panoptic_seg": {"PQ": 53.24}}
    assert summary_line(results) == "PQ 53.2  mIoU 75.1"
    assert summary_line({}) == "no metrics"
