"""The testing protocols as settings of a config, on the generated data."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.evaluation import SemSegEvaluator

from vitadapter_d2.engine.evaluate import do_test, model_under_test
from vitadapter_d2.engine.train import do_train
from vitadapter_d2.inference.resize_rules import ClampedToCrop, KeepRatio
from vitadapter_d2.inference.semantic import SemanticLabels, SemanticTester
from vitadapter_d2.inference.sliding_window import SlidingWindow


@pytest.fixture
def semantic_config(tiny_config):
    """Semantic evaluation of 96 x 96 images by windows of 64, at scale 1.0 and 1.5 with flips."""
    tiny_config.model.panoptic_on = tiny_config.model.instance_on = False
    tiny_config.dataloader.evaluator = [L(SemSegEvaluator)(dataset_name="tiny_val_panoptic")]
    tiny_config.test = L(SemanticTester)(
        mode="slide",
        window=L(SlidingWindow)(crop_size=(64, 64), stride=(42, 42), batch_size=4),
        resize=L(KeepRatio)(scale=(384, 96), divisor=32),
        ms_resize=L(ClampedToCrop)(scale=(384, 96), crop_size="${..window.crop_size.0}"),
        ms_ratios=(0.5, 1.0),
    )
    return tiny_config


def model_of(cfg):
    torch.manual_seed(0)
    return instantiate(cfg.model).eval()


@pytest.mark.parametrize("mode", ["whole", "slide", "ms"])
def test_an_override_chooses_the_protocol(semantic_config, mode):
    cfg = LazyConfig.apply_overrides(semantic_config, [f"test.mode={mode}"])
    model = model_of(cfg)
    tested = model_under_test(cfg, model)
    assert tested.mode == mode and tested.model is model
    item = next(iter(instantiate(cfg.dataloader.test)))[0]
    expected = SemanticTester(
        model,
        mode,
        window=SlidingWindow(64, 42),
        resize=KeepRatio((384, 96), 32),
        ms_resize=ClampedToCrop((384, 96), 64),
        ms_ratios=(0.5, 1.0),
    )
    torch.testing.assert_close(tested([item])[0]["sem_seg"], expected([item])[0]["sem_seg"])


def test_evaluation_repeats_the_result_of_training(semantic_config):
    trained = do_train(semantic_config)
    file = Path(semantic_config.train.output_dir, "model_final.pth")
    model = instantiate(semantic_config.model)
    model.load_state_dict(torch.load(file, weights_only=True)["model"])
    assert do_test(semantic_config, model) == trained


def test_evaluation_goes_through_the_tester(semantic_config):
    seen = []
    model = model_of(semantic_config)
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    do_test(semantic_config, model)
    assert seen == 8 * 2 * [(2, 3, 64, 64)]  # of each 96 x 96 image two rows of two windows
    seen.clear()
    do_test(LazyConfig.apply_overrides(semantic_config, ["test.mode=whole"]), model)
    assert seen == 8 * [(1, 3, 96, 96)]


def test_labels_alone_give_the_same_result(semantic_config):
    model = model_of(semantic_config)
    scores = do_test(semantic_config, model)
    semantic_config.test.max_score_elements = 0
    item = next(iter(instantiate(semantic_config.dataloader.test)))[0]
    (output,) = model_under_test(semantic_config, model)([item])
    assert isinstance(output["sem_seg"], SemanticLabels)
    assert do_test(semantic_config, model) == scores


def test_the_mode_of_the_model_is_restored(semantic_config):
    model = model_of(semantic_config).train()
    do_test(semantic_config, model)
    assert model.training and model.backbone.training
    model.eval()
    do_test(semantic_config, model)
    assert not model.training and not model.backbone.training


def test_the_config_can_still_be_saved(semantic_config, tmp_path):
    model_under_test(semantic_config, model_of(semantic_config))
    assert "model" not in semantic_config.test
    LazyConfig.save(semantic_config, str(tmp_path / "config.yaml"))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert model_under_test(saved, model_of(saved)).mode == "slide"


def test_a_wrong_mode_is_named(semantic_config):
    cfg = LazyConfig.apply_overrides(semantic_config, ["test.mode=multi"])
    with pytest.raises(ValueError, match="mode must be one of whole, slide, ms, got 'multi'"):
        do_test(cfg, model_of(cfg))


def test_an_override_without_a_protocol_is_named(tiny_config):
    cfg = LazyConfig.apply_overrides(tiny_config, ["test.mode=slide"])
    with pytest.raises(ValueError, match="test must be a call .* only {'mode': 'slide'}"):
        model_under_test(cfg, model_of(cfg))


def test_without_test_the_model_is_tested_as_it_is(tiny_config):
    model = model_of(tiny_config)
    assert model_under_test(tiny_config, model) is model
